"""The attention of the queries at some points of an image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement

from .blocks import find_blocks, grids, iter_attention
from .figures import Query
from .geometry import PixelMap


@torch.no_grad()
def attention_at(
    model: BaseModel,
    pipeline: Callable,
    image: str | np.ndarray,
    points: Sequence[tuple[float, float]],
    name: str | None = None,
) -> tuple[np.ndarray, BaseDataElement]:
    """Compute the attention of the queries at points of an image, over its pixels.

    A segmentor with ``test_cfg.mode='slide'`` sees the whole image at once here, because
    its blocks do not know where in the image a window lies.

    Args:
        model: A detector or segmentor in eval mode. It is left as it was.
        pipeline: Its test pipeline, from :func:`mmgcnl.apis.image_pipeline`.
        image: Its path, or the array that the config's loader gives for it.
        points: x and y of each, in pixels.
        name: Name of the block, one of :func:`find_blocks`; needed if there are several.

    Returns:
        (number of points, n heads, H, W), and the model's prediction.

    Raises:
        ValueError: The model has no such block, or a point is outside of the image.
    """
    blocks = find_blocks(model)
    if name is None and len(blocks) > 1:
        raise ValueError(
            'the model has several blocks, choose one with --block (of the second model, '
            f'--block2): {", ".join(blocks)}'
        )
    name = name or next(iter(blocks))
    if name not in blocks:
        raise ValueError(f'there is no block {name!r}; there are: {", ".join(blocks)}')
    block = blocks[name]
    seen: dict[str, Any] = {}
    batch = pseudo_collate([pipeline(image)])
    handle = block.register_forward_hook(lambda _, args, y: seen.update(x=args[0]))
    stem = model.data_preprocessor.register_forward_hook(
        lambda _, args, y: seen.update(shape=tuple(y['inputs'].shape[2:]))
    )
    try:
        with _whole_image(model):
            (pred,) = model.test_step(batch)
    finally:
        handle.remove()
        stem.remove()
    pixel_map = PixelMap.of_pipeline(pipeline, pred.ori_shape, seen['shape'])
    size = (seen['x'].shape[2], seen['x'].shape[3])
    queries, keys = grids(block, size)
    cells = [pixel_map.cell(point, queries, size) for point in points]
    found: dict[int, np.ndarray] = {}
    start = 0
    for weights in iter_attention(block, seen['x']):
        for cell in cells:
            if start <= cell < start + weights.shape[2]:
                found[cell] = weights[0, :, cell - start].cpu().numpy()
        start += weights.shape[2]
    maps = np.stack([found[cell] for cell in cells])
    return pixel_map.over_image(maps, keys, size), pred.cpu()


@contextmanager
def _whole_image(model: BaseModel) -> Iterator[None]:
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


def head_queries(
    points: Sequence[tuple[float, float]], maps: Mapping[str, np.ndarray]
) -> list[Query]:
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
            point,
            {
                'mean of heads': heads.mean(0),
                **{f'head {i}': head for i, head in enumerate(heads, 1) if len(heads) > 1},
            },
            f'{number}: {name}' if len(points) > 1 else name,
        )
        for number, (point, *per_model) in enumerate(zip(points, *maps.values()), 1)
        for name, heads in zip(maps, per_model)
    ]


def mean_queries(
    points: Sequence[tuple[float, float]], maps: Mapping[str, np.ndarray]
) -> list[Query]:
    """Make rows of :func:`draw_attention`: the mean over the heads, of all models.

    Args:
        points: As for :func:`head_queries`.
        maps: As for :func:`head_queries`.

    Returns:
        A row per point.
    """
    return [
        Query(
            point,
            {f'{name}, mean of heads': heads[i].mean(0) for name, heads in maps.items()},
            f'query {i + 1}' if len(points) > 1 else '',
        )
        for i, point in enumerate(points)
    ]
