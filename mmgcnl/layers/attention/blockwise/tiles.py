"""How the attention is divided: some heads, some queries and some keys at a time.

Shape shorthand: B images, n heads, (H, W) the query grid, N = H * W, (h, w) the key grid,
M = h * w.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

#: Attention weights of a tile of one head, by device type: few enough to stay in a CPU
#: core's cache.
TILE_WEIGHTS = {'cpu': 2**20}
#: The same for all other device types: enough to keep a GPU busy.
TILE_WEIGHTS_ELSEWHERE = 2**24
#: Keys of a block. A tile then has enough queries for fast matrix products.
BLOCK_KEYS = 2**12
#: Entries of the position tables of a head that are computed at a time.
TABLE_ENTRIES = 2**20


class Rectangle(NamedTuple):
    """A rectangle of the query grid, whose position tables are computed together.

    Attributes:
        rows: Its rows in the query grid.
        columns: Its columns in the query grid.
        tiles: Consecutive stretches of its queries in row-major order.
    """

    rows: slice
    columns: slice
    tiles: list[slice]


class KeyBlock(NamedTuple):
    """A rectangle of the key grid: either whole rows or a stretch of one row.

    Attributes:
        rows: Its rows in the key grid.
        columns: Its columns in the key grid.
        keys: Its keys in row-major order of the whole grid.
    """

    rows: slice
    columns: slice
    keys: slice

    def on_grid(self, of_keys: Tensor) -> Tensor:
        """View (..., K) as (..., rows, columns)."""
        return of_keys.unflatten(-1, (_length(self.rows), -1))


class Tiling(NamedTuple):
    """How an attention is divided.

    Attributes:
        groups: Images and heads that are computed together: several where they are small,
            otherwise one head of one image.
        rectangles: The queries.
        blocks: The keys.
        small: Whether a head has too few weights for a thread of its own.
    """

    groups: list[tuple[slice, slice]]
    rectangles: list[Rectangle]
    blocks: list[KeyBlock]
    small: bool

    @property
    def most_weights(self) -> int:
        """The most attention weights that exist at a time, of all heads of a group."""
        heads = max(_length(images) * _length(heads) for images, heads in self.groups)
        queries = max(_length(tile) for r in self.rectangles for tile in r.tiles)
        return heads * queries * max(_length(block.keys) for block in self.blocks)


def divide(size: Sequence[int], key_size: Sequence[int], device_type: str) -> Tiling:
    """Divide an attention so that few weights exist at a time.

    Args:
        size: B, n, H and W.
        key_size: h and w.
        device_type: For example 'cpu'.
    """
    (batch, heads, height, width), (key_height, key_width) = size, key_size
    tile_weights = TILE_WEIGHTS.get(device_type, TILE_WEIGHTS_ELSEWHERE)
    blocks = [
        KeyBlock(rows, columns, _keys(rows, columns, key_width))
        for rows in _spans(key_height, max(1, BLOCK_KEYS // key_width))
        for columns in _spans(key_width, BLOCK_KEYS)
    ]
    most_keys = max(_length(block.keys) for block in blocks)
    most_queries = max(1, tile_weights // most_keys)
    most_of_rectangle = max(1, TABLE_ENTRIES // (key_height + key_width))
    rectangles = [
        Rectangle(rows, columns, _spans(_length(rows) * _length(columns), most_queries))
        for rows in _spans(height, max(1, most_of_rectangle // width))
        for columns in _spans(width, most_of_rectangle)
    ]
    # A head of less than a tile is computed with others, two tiles at most: fewer
    # operations, and enough work for the threads in each.
    weights = height * width * key_height * key_width
    small = weights < tile_weights
    together = 2 * tile_weights // weights if small else 1
    groups = list(
        itertools.product(_spans(batch, max(1, together // heads)), _spans(heads, together))
    )
    return Tiling(groups, rectangles, blocks, small)


def _spans(length: int, most: int) -> list[slice]:
    """Divide ``length`` into as few slices of at most ``most`` as possible, evenly."""
    count = -(-length // most)
    ends = [length * i // count for i in range(count + 1)]
    return [slice(*pair) for pair in zip(ends, ends[1:])]


def _length(span: slice) -> int:
    return span.stop - span.start


def _keys(rows: slice, columns: slice, width: int) -> slice:
    start = rows.start * width + columns.start
    return slice(start, start + _length(rows) * _length(columns))
