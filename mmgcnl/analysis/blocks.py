"""The attention of a model's non-local blocks: GCNonLocal2d and mmcv's.

Shape shorthand: B images, C channels, n heads, N query positions, M key positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from mmcv.cnn import NonLocal2d
from mmcv.cnn.bricks import GeneralizedAttention
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mmgcnl.layers import GCNonLocal2d, attention_weights

BLOCKS = (GCNonLocal2d, NonLocal2d, GeneralizedAttention)
# Elements of the attention that are in memory at a time.
_CHUNK = 2**24


def find_blocks(model: nn.Module) -> dict[str, nn.Module]:
    """Find the non-local blocks of a model.

    Args:
        model: Any model.

    Returns:
        By name, the modules that are :class:`mmgcnl.layers.GCNonLocal2d`, mmcv's
        NonLocal2d or GeneralizedAttention, or derive from these.

    Raises:
        ValueError: There is none.
    """
    blocks = {name: m for name, m in model.named_modules() if isinstance(m, BLOCKS)}
    if not blocks:
        kinds = ', '.join(kind.__name__ for kind in BLOCKS)
        raise ValueError(f'{type(model).__name__} has no non-local block ({kinds})')
    return blocks


def block_type(block: nn.Module) -> str:
    """Name the type of a block as configs do: adapters of the block are GCNonLocal2d."""
    kind = GCNonLocal2d if isinstance(block, GCNonLocal2d) else type(block)
    return kind.__name__


@dataclass(frozen=True)
class Grid:
    """Where the queries or keys of a block lie on its input map.

    Along each axis, cell k extends from ``start + k * stride`` to
    ``start + (k + 1) * stride``. Coordinates are positions of the map: position j extends
    from j to j + 1.

    Args:
        size: Number of rows and columns of cells.
        stride: Distance between cells.
        start: Where the first cell begins.
    """

    size: tuple[int, int]
    stride: float = 1
    start: float = 0

    def cells(self, coordinates: np.ndarray, axis: int) -> np.ndarray:
        """Find the rows (``axis=0``) or columns (1) of cells at coordinates of the map."""
        cells = np.floor((coordinates - self.start) / self.stride).astype(int)
        return cells.clip(0, self.size[axis] - 1)

    def centers(self, axis: int) -> np.ndarray:
        """Compute the centers of the rows (``axis=0``) or columns (1)."""
        return self.start + (np.arange(self.size[axis]) + 0.5) * self.stride


def grids(block: Any, size: tuple[int, int]) -> tuple[Grid, Grid]:
    """Compute the grids of a block's queries and keys.

    Args:
        block: One of :func:`find_blocks`.
        size: Rows and columns of its input.
    """
    if isinstance(block, NonLocal2d):
        half = Grid((size[0] // 2, size[1] // 2), 2)  # a max pool of 2 x 2
        return Grid(size), half if block.sub_sample else Grid(size)
    q_stride = getattr(block, 'q_stride', 1)  # ours has a query everywhere
    return _subsampled(size, q_stride), _subsampled(size, block.kv_stride)


def _subsampled(size: tuple[int, int], stride: int) -> Grid:
    rows, columns = (math.ceil(n / stride) for n in size)
    return Grid((rows, columns), stride, 0.5 - stride / 2)


@torch.no_grad()
def iter_attention(block: nn.Module, x: Tensor) -> Iterator[Tensor]:
    """Compute the attention of a block for some queries at a time, to save memory.

    The attention is computed again from the block's input, so that a forward pass keeps
    nothing. mmcv's blocks compute all of it at once, as they do in their forward pass.

    Args:
        block: One of :func:`find_blocks`, in eval mode: in training mode, a norm would
            update its statistics a second time.
        x: (B, C, H, W), the block's input.

    Yields:
        (B, n, some queries, M), until all N queries have been yielded, in row-major order.
    """
    if isinstance(block, GCNonLocal2d):
        inputs = block.attention_inputs(x)
        height, width = inputs.query.shape[2:4]
        per_row = width * inputs.key.shape[:4].numel()
        for start in range(0, height, step := max(1, _CHUNK // per_row)):
            yield attention_weights(inputs.of_queries(slice(start, start + step)))
        return
    if isinstance(block, GeneralizedAttention):
        weights = _softmax_of(block, x)
    else:
        assert isinstance(block, NonLocal2d)
        theta_x, phi_x = _pairwise_inputs(block, x)
        weights = getattr(block, block.mode)(theta_x, phi_x).unsqueeze(1)
    yield from weights.split(max(1, _CHUNK // weights[:, :, 0].numel()), dim=2)


@torch.no_grad()
def attention_by_query(block: nn.Module, x: Tensor) -> Callable[[int], Tensor]:
    """Prepare the attention of single queries: what all of them share is computed once.

    Args:
        block: One of :func:`find_blocks`, in eval mode.
        x: (1, C, H, W), the block's input.

    Returns:
        A function from the number of a query, in row-major order, to its attention (n, M),
        the same as in :func:`iter_attention`.
    """
    if isinstance(block, GCNonLocal2d):
        inputs = block.attention_inputs(x)

        @torch.no_grad()
        def of_query(number: int) -> Tensor:
            row, column = divmod(number, inputs.query.shape[3])
            one = inputs.of_queries(slice(row, row + 1), slice(column, column + 1))
            return attention_weights(one)[0, :, 0]

        return of_query
    if isinstance(block, GeneralizedAttention):
        weights = _softmax_of(block, x)[0]
        return lambda number: weights[:, number]
    assert isinstance(block, NonLocal2d)
    pairwise = getattr(block, block.mode)
    theta_x, phi_x = _pairwise_inputs(block, x)
    axis = 2 if block.mode == 'concatenation' else 1
    return lambda number: pairwise(theta_x.narrow(axis, number, 1), phi_x)[0]


@contextmanager
def uniform_weights(block: NonLocal2d | GeneralizedAttention) -> Iterator[None]:
    """Give all keys of mmcv's block the same weight in the forward passes inside."""
    if isinstance(block, GeneralizedAttention):
        name, forward = 'forward', block.forward

        def uniform(*args: Tensor) -> Tensor:
            with _Softmax(flat=True):
                return forward(*args)
    else:
        name, pairwise = block.mode, getattr(block, block.mode)

        def uniform(*args: Tensor) -> Tensor:
            weights = pairwise(*args)
            return torch.full_like(weights, 1 / weights.shape[-1])

    with patch.object(block, name, uniform):
        yield


class _Stop(Exception):
    """Ends a forward pass that has come as far as it is needed."""


def _pairwise_inputs(block: NonLocal2d, x: Tensor) -> list[Tensor]:
    """Get theta(x) and phi(x) of mmcv's block in any mode, from its forward pass."""
    seen: list[Tensor] = []

    def keep(*args: Tensor) -> Tensor:
        seen.extend(args)
        raise _Stop

    with patch.object(block, block.mode, keep), suppress(_Stop):
        block.forward(x)
    return seen


class _Softmax(TorchFunctionMode):
    """Keeps the result of GeneralizedAttention's only softmax, which no hook can reach.

    With ``flat``, its logits are zero. As they are changed, and not the result, a mode
    around this one keeps the result that the block goes on with.
    """

    def __init__(self, flat: bool = False) -> None:
        super().__init__()
        self.flat = flat

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore
        if func is not nn.functional.softmax:
            return func(*args, **(kwargs or {}))
        logits, *options = args
        logits = torch.zeros_like(logits) if self.flat else logits
        self.result = func(logits, *options, **(kwargs or {}))
        return self.result


def _softmax_of(block: GeneralizedAttention, x: Tensor) -> Tensor:
    """Get the weights (B, n, N, M) from a forward pass."""
    with _Softmax() as mode:
        block.forward(x)
    # Without a query term ('0010') the attention is the same for all queries.
    queries = math.prod(grids(block, (x.shape[2], x.shape[3]))[0].size)
    return mode.result.expand(-1, -1, queries, -1)
