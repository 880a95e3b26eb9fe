"""How the attention weights are cut: some queries by some keys at a time.

Shape shorthand: (H, W) the query grid, (h, w) the key grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

# Attention weights of a tile: on a CPU so few that they stay close to its cores, on a GPU
# enough to keep it busy.
_NUMEL = {'cpu': 2**19}
_OTHER_NUMEL = 2**24
# Keys of a tile. Where they are all the keys, the backward pass computes weights once.
_KEYS = 2**14
# Entries of the position tables that are made at a time.
_TABLE_NUMEL = 2**20


class Rectangle(NamedTuple):
    """A rectangle of the query grid, whose position tables are made together.

    Attributes:
        rows, columns: Where it is.
        tiles: Stretches of its queries, in row-major order.
    """

    rows: slice
    columns: slice
    tiles: list[slice]


class KeyBlock(NamedTuple):
    """A rectangle of the key grid: whole rows or a stretch of one row.

    Attributes:
        rows, columns: Where it is.
        keys: The same in row-major order of the whole grid.
    """

    rows: slice
    columns: slice
    keys: slice

    def on_grid(self, of_keys: Tensor) -> Tensor:
        """(T, K) as (T, rows, columns)."""
        return of_keys.unflatten(1, (_length(self.rows), -1))


def cut(
    size: Sequence[int], key_size: Sequence[int], device_type: str
) -> tuple[list[Rectangle], list[KeyBlock]]:
    """Cut both grids, so that a tile of queries and a block of keys have few weights.

    Args:
        size: H and W.
        key_size: h and w.
        device_type: Such as 'cpu'.
    """
    (height, width), (key_height, key_width) = size, key_size
    blocks = [
        KeyBlock(rows, columns, _keys(rows, columns, key_width))
        for rows in _spans(key_height, max(1, _KEYS // key_width))
        for columns in _spans(key_width, _KEYS)
    ]
    num_keys = max(block.keys.stop - block.keys.start for block in blocks)
    most_queries = max(1, _NUMEL.get(device_type, _OTHER_NUMEL) // num_keys)
    together = max(1, _TABLE_NUMEL // (key_height + key_width))
    rectangles = [
        Rectangle(rows, columns, _spans(_length(rows) * _length(columns), most_queries))
        for rows in _spans(height, max(1, together // width))
        for columns in _spans(width, together)
    ]
    return rectangles, blocks


def _spans(length: int, most: int) -> list[slice]:
    """As few slices as can be of at most ``most`` each, of all but the same length."""
    count = -(-length // most)
    ends = [length * i // count for i in range(count + 1)]
    return [slice(*pair) for pair in zip(ends, ends[1:])]


def _length(span: slice) -> int:
    return span.stop - span.start


def _keys(rows: slice, columns: slice, width: int) -> slice:
    start = rows.start * width + columns.start
    return slice(start, start + _length(rows) * _length(columns))
