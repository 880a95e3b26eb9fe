"""Some queries at a time: how the query grid is cut, and what dropout leaves of a tile.

Shape shorthand: B images, n heads, (H, W) the query grid, N = H * W, (h, w) the key grid,
M = h * w, T queries of a tile.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

# Attention weights of a tile: on a CPU so few that they stay in its cache, on a GPU
# enough to keep it busy. But fewer queries than this make slow matrix products.
_NUMEL = {'cpu': 2**19}
_OTHER_NUMEL = 2**25
_LEAST_QUERIES = 32
# Entries of the position tables that are made at a time.
_TABLE_NUMEL = 2**20


class Tile(NamedTuple):
    """Some queries of a rectangle of the query grid.

    Attributes:
        number: Index among all tiles.
        rows, columns: The rectangle. Tables are made for all of it.
        queries: The tile among the rectangle's queries, in row-major order.
    """

    number: int
    rows: slice
    columns: slice
    queries: slice


def query_tiles(
    size: Sequence[int], key_size: Sequence[int], device_type: str
) -> list[list[Tile]]:
    """Cut the query grid into rectangles and these into tiles.

    Args:
        size: H and W.
        key_size: h and w.
        device_type: Such as 'cpu'.

    Returns:
        The tiles of each rectangle.
    """
    height, width = size
    num_keys = key_size[0] * key_size[1]
    together = max(1, _TABLE_NUMEL // sum(key_size))
    fitting = _NUMEL.get(device_type, _OTHER_NUMEL) // num_keys
    at_a_time = max(_LEAST_QUERIES, fitting // 16 * 16)  # 16: what matrix products like
    rows, columns = max(1, together // width), min(width, together)
    rectangles: list[list[Tile]] = []
    number = itertools.count()
    for y in range(0, height, rows):
        for x in range(0, width, columns):
            bottom, right = min(y + rows, height), min(x + columns, width)
            num_queries = (bottom - y) * (right - x)
            rectangles.append(
                [
                    Tile(
                        next(number),
                        slice(y, bottom),
                        slice(x, right),
                        slice(start, min(start + at_a_time, num_queries)),
                    )
                    for start in range(0, num_queries, at_a_time)
                ]
            )
    return rectangles


class KeepMask:
    """Which attention weights dropout keeps: a function of a seed and the shapes alone.

    So the backward pass needs no mask from the forward pass, and every implementation
    that works on tiles drops the same weights.

    Sixteen random bits decide on a weight, four weights on one number of the generator.
    The probability is thereby rounded to a multiple of 2^-16; ``scale`` is the inverse of
    the share that is really kept.

    Args:
        dropout_p: Probability with which a weight is dropped.
        seed: A whole number, as a tensor of one element.
        device: Where the masks are made; each type of device has its own generator.
    """

    def __init__(self, dropout_p: float, seed: Tensor, device: torch.device) -> None:
        self.threshold = min(round(dropout_p * 2**16), 2**16 - 1)
        self.scale = 2**16 / (2**16 - self.threshold)
        self.seed = int(seed)
        self.generator = torch.Generator(device)

    def __call__(self, index: Sequence[int], tile: int, shape: Sequence[int]) -> Tensor:
        """Bool (T, M), True where a weight is kept.

        Args:
            index: Image and head.
            tile: Number of the tile in :func:`query_tiles`.
            shape: T and M.
        """
        # PyTorch's generator on a CPU looks at 32 bits of a seed: they are mixed from all.
        numbers = torch.tensor([self.seed, *index, tile]).numpy().tobytes()
        self.generator.manual_seed(zlib.crc32(numbers))
        numel = shape[0] * shape[1]
        bits = torch.empty(
            (numel + 3) // 4, dtype=torch.int64, device=self.generator.device
        )
        bits.random_(-(2**63), None, generator=self.generator)
        keep = bits.view(torch.int16)[:numel] >= self.threshold - 2**15
        return keep.view(*shape)
