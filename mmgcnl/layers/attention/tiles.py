"""How the attention weights are divided: some queries by some keys at a time.

Shape shorthand: (H, W) the query grid, (h, w) the key grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

#: Attention weights of a tile, by device type: few enough to stay in a CPU core's cache.
TILE_WEIGHTS = {'cpu': 2**19}
#: The same for all other device types: enough to keep a GPU busy.
TILE_WEIGHTS_ELSEWHERE = 2**24
#: Keys of a block. Where one block holds all keys, the backward pass computes the weights
#: only once.
BLOCK_KEYS = 2**14
#: Entries of the position tables that are computed at a time.
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
        """View (T, K) as (T, rows, columns)."""
        return of_keys.unflatten(1, (_length(self.rows), -1))


def cut(
    size: Sequence[int], key_size: Sequence[int], device_type: str
) -> tuple[list[Rectangle], list[KeyBlock]]:
    """Divide both grids, such that a tile of queries and a block of keys have few weights.

    Args:
        size: H and W.
        key_size: h and w.
        device_type: For example 'cpu'.
    """
    (height, width), (key_height, key_width) = size, key_size
    blocks = [
        KeyBlock(rows, columns, _keys(rows, columns, key_width))
        for rows in _spans(key_height, max(1, BLOCK_KEYS // key_width))
        for columns in _spans(key_width, BLOCK_KEYS)
    ]
    most_keys = max(block.keys.stop - block.keys.start for block in blocks)
    tile_weights = TILE_WEIGHTS.get(device_type, TILE_WEIGHTS_ELSEWHERE)
    most_queries = max(1, tile_weights // most_keys)
    most_of_rectangle = max(1, TABLE_ENTRIES // (key_height + key_width))
    rectangles = [
        Rectangle(rows, columns, _spans(_length(rows) * _length(columns), most_queries))
        for rows in _spans(height, max(1, most_of_rectangle // width))
        for columns in _spans(width, most_of_rectangle)
    ]
    return rectangles, blocks


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
