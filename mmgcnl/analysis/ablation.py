"""What each prior does in a trained model: remove it and evaluate the model again.

Nothing is trained again, so a drop shows what this model relies on. Hooks change the blocks
during an ablation; otherwise a model has none.

Shape shorthand: B images, n heads, d channels of a head, (H, W) the query grid, (h, w) the
key grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from mmcv.cnn.bricks import GeneralizedAttention
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.model import BaseModel
from mmengine.utils import ProgressBar
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mmgcnl.datasets import build_dataloader
from mmgcnl.layers import GCNonLocal2d

from .blocks import find_blocks

#: The ablations of a block, and what they do.
ABLATIONS = {
    'context mean': 'the context of every image is the mean over the data set',
    'context swapped': 'each image has the context of another one, half a data set away',
    'position zeroed': 'position adds nothing to the logits',
    'offsets shuffled': 'each query sees the position codes at other keys, at random',
    'attention uniform': 'every key has the same weight',
}


class Contexts:
    """The contexts of a block, for each image of a data set in order."""

    def __init__(self) -> None:
        self.images: list[Tensor] = []  # (n, 1, 1, d)

    @contextmanager
    def record(self, block: GCNonLocal2d) -> Iterator[None]:
        """Record the contexts of all forward passes inside the ``with`` block."""

        def keep(_: nn.Module, args: Any, output: tuple[Tensor, Tensor]) -> None:
            context, factor = output
            self.images += (context * factor).cpu()

        assert block.context is not None
        handle = block.context.register_forward_hook(keep)
        try:
            yield
        finally:
            handle.remove()

    def mean(self) -> Tensor:
        """Average the contexts over the images, (n, 1, 1, d)."""
        return torch.stack(self.images).mean(0)


def ablations_of(block: nn.Module) -> list[str]:
    """Return the keys of :data:`ABLATIONS` that apply to a block."""
    names = []
    if isinstance(block, GCNonLocal2d):
        if block.context is not None:
            names += ['context mean', 'context swapped']
        if block.position is not None:
            names += ['position zeroed', 'offsets shuffled']
    return [*names, 'attention uniform']


@contextmanager
def ablated(
    block: nn.Module, ablation: str, contexts: Contexts | None = None, seed: int = 0
) -> Iterator[None]:
    """Ablate a block during the forward passes inside the ``with`` block.

    Args:
        block: One of :func:`find_blocks`.
        ablation: One of :func:`ablations_of`.
        contexts: The contexts of the data set, for the ablations of the context. The images
            must come in the same order.
        seed: The shuffled offsets depend on it alone.

    Raises:
        ValueError: The block does not allow the ablation, or ``contexts`` are missing.
    """
    if ablation not in ablations_of(block):
        raise ValueError(
            f'ablation={ablation!r}: a {type(block).__name__} like this one allows '
            f'{", ".join(map(repr, ablations_of(block)))}'
        )
    if ablation.startswith('context') and not (contexts and contexts.images):
        raise ValueError(f'ablation={ablation!r} needs the contexts of the data set')
    with ExitStack() as stack:
        hooks = _hooks(block, ablation, contexts, seed)
        for module, hook in hooks:
            stack.callback(module.register_forward_hook(hook).remove)
        if not hooks:
            stack.enter_context(_uniform_plain(block))
        yield


def _hooks(
    block: nn.Module, ablation: str, contexts: Contexts | None, seed: int
) -> list[tuple[Any, Callable]]:
    """Return modules of our block, and hooks that replace their outputs."""
    if not isinstance(block, GCNonLocal2d):
        return []
    if ablation == 'attention uniform':
        # Zero logits: no query, and no position, since some forms need no query.
        hooks: list[tuple[Any, Callable]] = [(block.query, _zero)]
        return hooks + [(block.position, _zero_position)] * (block.position is not None)
    if ablation == 'position zeroed':
        return [(block.position, _zero_position)]
    if ablation == 'offsets shuffled':
        return [(block.position, _Shuffle(seed))]
    assert contexts is not None
    images = contexts.images
    if ablation == 'context mean':
        images = [contexts.mean()] * len(images)
    else:
        if len(images) < 2:
            raise ValueError(f'ablation={ablation!r} needs at least two images')
        half = len(images) // 2
        images = images[half:] + images[:half]
    return [(block.context, _Replace(images))]


def _zero(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return torch.zeros_like(output)


def _zero_position(module: nn.Module, args: Any, output: Any) -> Any:
    rows, columns = torch.zeros_like(output.rows), torch.zeros_like(output.columns)
    return output._replace(rows=rows, columns=columns)


class _Shuffle:
    """Permutes the keys of the position codes, differently for each row and column."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        # Seeded for each map, so that maps of the same size get the same permutation.
        generator = torch.Generator().manual_seed(self.seed)
        tables = []
        for table in (output.rows, output.columns):  # (queries, keys, n, d)
            order = torch.rand(table.shape[:2], generator=generator).argsort(dim=1)
            index = order.to(table.device)[..., None, None].expand_as(table)
            tables.append(table.gather(1, index))
        return output._replace(rows=tables[0], columns=tables[1])


class _Replace:
    """Replaces the contexts of successive maps by those of a list."""

    def __init__(self, images: list[Tensor]) -> None:
        self.images = images
        self.done = 0

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        context, factor = output
        start, self.done = self.done, self.done + len(context)
        if self.done > len(self.images):
            raise ValueError(
                f'there are more images than the {len(self.images)} whose contexts were '
                'recorded'
            )
        images = torch.stack(self.images[start : self.done])
        return images.to(context), torch.ones_like(factor)


@contextmanager
def _uniform_plain(block: Any) -> Iterator[None]:
    """Give one of mmcv's blocks uniform attention."""
    if isinstance(block, GeneralizedAttention):
        with _UniformSoftmax.around(block):
            yield
        return
    pairwise = getattr(block, block.mode)

    def uniform(theta_x: Tensor, phi_x: Tensor) -> Tensor:
        weights = pairwise(theta_x, phi_x)
        return torch.full_like(weights, 1 / weights.shape[-1])

    with patch.object(block, block.mode, uniform):
        yield


class _UniformSoftmax(TorchFunctionMode):
    """Makes the softmax of GeneralizedAttention uniform, which no hook can reach."""

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore
        result = func(*args, **(kwargs or {}))
        if func is F.softmax:
            return torch.full_like(result, 1 / result.shape[-1])
        return result

    @classmethod
    @contextmanager
    def around(cls, block: nn.Module) -> Iterator[None]:
        forward = block.forward

        def flat(*args: Any, **kwargs: Any) -> Tensor:
            with cls():
                return forward(*args, **kwargs)

        with patch.object(block, 'forward', flat):
            yield


def ablate_priors(model: BaseModel, cfg: Config) -> dict[str, Any]:
    """Evaluate a model as it is, and with every ablation of every block.

    With several blocks, each is ablated alone and all of them together ('all').

    Args:
        model: From :func:`mmgcnl.apis.init_model`.
        cfg: Its config, with the test data and the metrics.

    Returns:
        ``metrics`` of the model as it is, and ``ablations``: for each a dict of ``block``,
        ``ablation`` and ``metrics``.

    Raises:
        ValueError: The model has no non-local block, or the config no test data.
        RuntimeError: The data has a fault.
    """
    blocks = find_blocks(model)
    if cfg.get('test_dataloader') is None or cfg.get('test_evaluator') is None:
        raise ValueError('the config has no test_dataloader and test_evaluator')
    loader: Any = build_dataloader(cfg.test_dataloader)
    evaluator = Evaluator(cfg.test_evaluator)
    evaluator.dataset_meta = loader.dataset.metainfo
    contexts = {name: Contexts() for name in blocks}
    jobs = [
        ({name: blocks[name]}, name, ablation)
        for name in blocks
        for ablation in ablations_of(blocks[name])
    ]
    if len(blocks) > 1:
        jobs += [
            (
                {k: b for k, b in blocks.items() if ablation in ablations_of(b)},
                'all',
                ablation,
            )
            for ablation in ABLATIONS
            if any(ablation in ablations_of(b) for b in blocks.values())
        ]
    bar = ProgressBar((1 + len(jobs)) * len(loader))
    evaluate = lambda: _evaluate(model, loader, evaluator, bar)  # noqa: E731
    with ExitStack() as stack:
        for name, block in blocks.items():
            if isinstance(block, GCNonLocal2d) and block.context is not None:
                stack.enter_context(contexts[name].record(block))
        metrics = evaluate()
    found = []
    for chosen, name, ablation in jobs:
        with ExitStack() as stack:
            for key, block in chosen.items():
                stack.enter_context(ablated(block, ablation, contexts[key]))
            found.append(dict(block=name, ablation=ablation, metrics=evaluate()))
    print()
    return dict(metrics=metrics, ablations=found)


@torch.no_grad()
def _evaluate(
    model: BaseModel, loader: Any, evaluator: Evaluator, bar: ProgressBar
) -> dict[str, float]:
    for batch in loader:
        evaluator.process(data_samples=model.test_step(batch), data_batch=batch)
        bar.update()
    metrics = evaluator.evaluate(len(loader.dataset))
    # Also numpy's numbers; not confusion matrices or the like.
    return {k: float(v) for k, v in metrics.items() if np.ndim(v) == 0}
