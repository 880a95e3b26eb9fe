"""What each prior does in a trained model: remove it and evaluate the model again.

Nothing is trained again, so a drop shows what this model relies on. Hooks change the blocks
during an ablation; otherwise a model has none.

Shape shorthand: B images, n heads, d channels of a head, (H, W) the query grid, (h, w) the
key grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.model import BaseModel
from mmengine.utils import ProgressBar
from torch import Tensor, nn

from mmgcnl.datasets import build_dataloader
from mmgcnl.layers import GCNonLocal2d

from .blocks import find_blocks, uniform_weights

#: The ablations of a block, and what they do.
ABLATIONS = {
    'context mean': 'the context of every image is the mean over the data set',
    'context swapped': 'each image has the context of another one, half a data set away',
    'position zeroed': 'position adds nothing to the logits',
    'offsets shuffled': 'each query sees the position codes at other keys, at random',
    'attention uniform': 'every key has the same weight',
}


@contextmanager
def record_contexts(block: nn.Module) -> Iterator[list[Tensor]]:
    """Yield a list that gets the context (n, 1, 1, d) of every image inside, in order."""
    contexts: list[Tensor] = []

    def keep(_: nn.Module, args: Any, output: tuple[Tensor, Tensor]) -> None:
        context, factor = output
        contexts.extend((context * factor).cpu())

    assert isinstance(block, GCNonLocal2d) and block.context is not None
    handle = block.context.register_forward_hook(keep)
    try:
        yield contexts
    finally:
        handle.remove()


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
    block: nn.Module, ablation: str, contexts: Sequence[Tensor] = ()
) -> Iterator[None]:
    """Ablate a block during the forward passes inside the ``with`` block.

    Args:
        block: One of :func:`find_blocks`.
        ablation: One of :func:`ablations_of`.
        contexts: From :func:`record_contexts`, over the data set, for the ablations of the
            context. The images must come in the same order.

    Raises:
        ValueError: The block does not allow the ablation, or ``contexts`` are missing.
    """
    if ablation not in ablations_of(block):
        raise ValueError(
            f'ablation={ablation!r}: a {type(block).__name__} like this one allows '
            f'{", ".join(map(repr, ablations_of(block)))}'
        )
    with ExitStack() as stack:
        if isinstance(block, GCNonLocal2d):
            for module, hook in _hooks(block, ablation, contexts):
                stack.callback(module.register_forward_hook(hook).remove)
        else:
            stack.enter_context(uniform_weights(block))
        yield


def _hooks(
    block: GCNonLocal2d, ablation: str, contexts: Sequence[Tensor]
) -> list[tuple[Any, Callable]]:
    """Return modules of the block, and hooks that replace their outputs."""
    if ablation == 'attention uniform':
        # Zero logits: no query, and no position, since some forms need no query.
        zeroed: list[tuple[Any, Callable]] = [(block.query, _zero)]
        return zeroed + [(block.position, _zero_position)] * (block.position is not None)
    if ablation == 'position zeroed':
        return [(block.position, _zero_position)]
    if ablation == 'offsets shuffled':
        return [(block.position, _shuffle)]
    if not contexts:
        raise ValueError(f'ablation={ablation!r} needs the contexts of the data set')
    if ablation == 'context mean':
        contexts = [torch.stack([*contexts]).mean(0)] * len(contexts)
    elif len(contexts) < 2:
        raise ValueError(f'ablation={ablation!r} needs at least two images')
    else:
        half = len(contexts) // 2
        contexts = [*contexts[half:], *contexts[:half]]
    return [(block.context, _replace_by(contexts))]


def _zero(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return torch.zeros_like(output)


def _zero_position(module: nn.Module, args: Any, output: Any) -> Any:
    rows, columns = torch.zeros_like(output.rows), torch.zeros_like(output.columns)
    return output._replace(rows=rows, columns=columns)


def _shuffle(module: nn.Module, args: Any, output: Any) -> Any:
    """Permute the keys of the position codes, differently for each row and column."""
    # Seeded for each map, so that maps of the same size get the same permutation.
    generator = torch.Generator().manual_seed(0)
    tables = []
    for table in (output.rows, output.columns):  # (queries, keys, n, d)
        order = torch.rand(table.shape[:2], generator=generator).argsort(dim=1)
        index = order.to(table.device)[..., None, None].expand_as(table)
        tables.append(table.gather(1, index))
    return output._replace(rows=tables[0], columns=tables[1])


def _replace_by(contexts: Sequence[Tensor]) -> Callable:
    """Make a hook that replaces the contexts of successive maps by those of a list."""
    left = iter(contexts)

    def replace(module: nn.Module, args: Any, output: Any) -> Any:
        context, factor = output
        images = [*islice(left, len(context))]
        if len(images) < len(context):
            raise ValueError(
                f'there are more images than the {len(contexts)} whose contexts were '
                'recorded'
            )
        return torch.stack(images).to(context), torch.ones_like(factor)

    return replace


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
    groups = {name: [name] for name in blocks}
    if len(blocks) > 1:
        groups['all'] = [*blocks]
    jobs = [
        (group, ablation, chosen)
        for group, names in groups.items()
        for ablation in ABLATIONS
        if (chosen := [name for name in names if ablation in ablations_of(blocks[name])])
    ]
    bar = ProgressBar((1 + len(jobs)) * len(loader))
    contexts: dict[str, list[Tensor]] = {}
    with ExitStack() as stack:
        for name, block in blocks.items():
            if 'context mean' in ablations_of(block):
                contexts[name] = stack.enter_context(record_contexts(block))
        metrics = _evaluate(model, loader, evaluator, bar)
    found = []
    for group, ablation, chosen in jobs:
        with ExitStack() as stack:
            for name in chosen:
                of_block = contexts.get(name, ())
                stack.enter_context(ablated(blocks[name], ablation, of_block))
            ablated_metrics = _evaluate(model, loader, evaluator, bar)
        found.append(dict(block=group, ablation=ablation, metrics=ablated_metrics))
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
