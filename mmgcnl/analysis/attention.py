"""The attention of the queries at some points of an image."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from .blocks import attention_by_query, find_blocks, grids
from .figures import Query
from .geometry import PixelMap

Point = tuple[float, float]
#: The parts of a model in front of its head, in their order.
STEMS = ('backbone', 'neck')


class Scene(NamedTuple):
    """An image inside a model.

    Attributes:
        batch: What its pipeline makes of the image.
        features: What the backbone returns, and the neck if there is one.
        inputs: (1, C, H, W), the input of each block that takes part.
        pixel_map: Where the image lies on these.
        prediction: The model's prediction.
    """

    batch: dict[str, Any]
    features: dict[str, Any]
    inputs: dict[str, Tensor]
    pixel_map: PixelMap
    prediction: BaseDataElement

    def attention(self, name: str, block: nn.Module) -> Callable[[Point], np.ndarray]:
        """Prepare the attention of this image in a block of this name.

        Returns:
            A function from a point of the image to the attention of its query (n, M).
            It raises ValueError if the point is outside of the image.
        """
        size = self._size(name)
        queries, _ = grids(block, size)
        of_query = attention_by_query(block, self.inputs[name])

        def at(point: Point) -> np.ndarray:
            return of_query(self.pixel_map.cell(point, queries, size)).cpu().numpy()

        return at

    def cells(self, name: str, block: nn.Module) -> np.ndarray:
        """Find the key of a block under each pixel of the image (H, W)."""
        size = self._size(name)
        return self.pixel_map.cells(grids(block, size)[1], size)

    def _size(self, name: str) -> tuple[int, int]:
        return self.inputs[name].shape[2], self.inputs[name].shape[3]


@torch.no_grad()
def observe(model: BaseModel, pipeline: Callable, image: str | np.ndarray) -> Scene:
    """Run a model on an image and keep what reaches its blocks.

    A segmentor with ``test_cfg.mode='slide'`` sees the whole image at once here, because
    its blocks do not know where in the image a window lies.

    Args:
        model: A detector or segmentor in eval mode. It is left as it was.
        pipeline: Its test pipeline, from :func:`mmgcnl.apis.image_pipeline`.
        image: Its path, or the array that the config's loader gives for it.

    Raises:
        ValueError: The model has no non-local block, or the pipeline cannot be followed.
    """
    batch = pseudo_collate([pipeline(image)])
    features: dict[str, Any] = {}
    inputs: dict[str, Tensor] = {}
    shape: list[int] = []
    with ExitStack() as stack:

        def watch(module: nn.Module, hook: Callable) -> None:
            stack.callback(module.register_forward_hook(hook).remove)

        for name, block in find_blocks(model).items():
            watch(block, lambda _, args, y, name=name: inputs.update({name: args[0]}))
        for stem in STEMS:
            if isinstance(module := getattr(model, stem, None), nn.Module):
                watch(module, lambda _, args, y, stem=stem: features.update({stem: y}))
        watch(model.data_preprocessor, lambda _, args, y: shape.extend(y['inputs'].shape))
        stack.enter_context(whole_image(model))
        (pred,) = model.test_step(copy.deepcopy(batch))
    pixel_map = PixelMap.of_pipeline(pipeline, pred.ori_shape, (shape[2], shape[3]))
    return Scene(batch, features, inputs, pixel_map, pred.cpu())


def attention_at(
    model: BaseModel,
    pipeline: Callable,
    image: str | np.ndarray,
    points: Sequence[Point],
    name: str | None = None,
) -> tuple[np.ndarray, BaseDataElement]:
    """Compute the attention of the queries at points of an image, over its pixels.

    Args:
        model: As for :func:`observe`.
        pipeline: As for :func:`observe`.
        image: As for :func:`observe`.
        points: x and y of each, in pixels.
        name: Name of the block, one of :func:`find_blocks`; needed if there are several.

    Returns:
        (number of points, n heads, H, W), and the model's prediction.

    Raises:
        ValueError: The model has no such block, or a point is outside of the image.
    """
    name, block = choose_block(model, name)
    scene = observe(model, pipeline, image)
    at = scene.attention(name, block)
    maps = np.stack([at(point) for point in points])
    return maps[..., scene.cells(name, block)], scene.prediction


def choose_block(
    model: nn.Module, name: str | None, of: str = 'the model'
) -> tuple[str, nn.Module]:
    """Find a block by its name, or the only one.

    Args:
        model: The model.
        name: The name; '' or None for the only one.
        of: What errors call the model.

    Raises:
        ValueError: There is no such block, or there are several and no name is given.
    """
    blocks = find_blocks(model)
    if not name and len(blocks) > 1:
        raise ValueError(
            f'{of} has several blocks, choose one with --block (of the second model, '
            f'--block2): {", ".join(blocks)}'
        )
    name = name or next(iter(blocks))
    if name not in blocks:
        raise ValueError(f'{of} has no block {name!r}; there are: {", ".join(blocks)}')
    return name, blocks[name]


@contextmanager
def whole_image(model: BaseModel) -> Iterator[None]:
    """Let a segmentor process whole images: blocks do not know where a window lies."""
    test_cfg = model.test_cfg
    if not test_cfg or test_cfg.get('mode') != 'slide':
        yield
        return
    test_cfg.mode = 'whole'
    try:
        yield
    finally:
        test_cfg.mode = 'slide'


def head_maps(heads: np.ndarray) -> dict[str, np.ndarray]:
    """Name the attention maps (n, H, W) of a query: their mean, then each of several."""
    of_heads = {f'head {i}': head for i, head in enumerate(heads, 1) if len(heads) > 1}
    return {'mean of heads': heads.mean(0), **of_heads}


def head_queries(points: Sequence[Point], maps: Mapping[str, np.ndarray]) -> list[Query]:
    """Make rows of :func:`draw_attention`: the mean over the heads, then each head.

    Args:
        points: x and y of each query, in pixels.
        maps: For each model, by its name, what :func:`attention_at` returned for these
            points: (number of points, n, H, W).

    Returns:
        A row per point and model.
    """
    return [
        Query(
            point, head_maps(of_model[i]), f'{i + 1}: {name}' if len(points) > 1 else name
        )
        for i, point in enumerate(points)
        for name, of_model in maps.items()
    ]


def mean_queries(points: Sequence[Point], maps: Mapping[str, np.ndarray]) -> list[Query]:
    """Make rows of :func:`draw_attention`: the mean over the heads, of all models.

    Takes the arguments of :func:`head_queries`, and returns a row per point.
    """
    return [
        Query(
            point,
            {f'{name}, mean of heads': heads[i].mean(0) for name, heads in maps.items()},
            f'query {i + 1}' if len(points) > 1 else '',
        )
        for i, point in enumerate(points)
    ]
