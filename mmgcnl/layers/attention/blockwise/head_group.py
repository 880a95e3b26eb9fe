"""Queries and keys of a few heads, as the blockwise attention takes them.

Shape shorthand: G heads, of one image or of several, (H, W) the query grid, (h, w) the key
grid, M = h * w, d channels, T queries of a tile, K keys of a block.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..dropout import KeepMask
from .tiles import KeyBlock, Tiling

#: Queries and position queries are multiplied with it, so that the weights are exp2 of the
#: logits. PyTorch computes exp2 itself, but leaves exp to MKL, which needs three times as
#: long on an AMD EPYC.
LOG2_E = math.log2(math.e)


def compute_dtype(query: Tensor) -> torch.dtype:
    """The precision of the computation: float32 at least."""
    return torch.promote_types(query.dtype, torch.float32)


class Keys(NamedTuple):
    """A block of keys."""

    block: KeyBlock
    key: Tensor  # (G, K, d)
    value: Tensor  # (G, K, d)
    key_t: Tensor  # (G, d, K)
    numbers: Tensor | None  # (G, K), for dropout


class Queries(NamedTuple):
    """Queries: a rectangle of the grid, or a tile of one."""

    query: Tensor  # (G, T, d), times its scale and LOG2_E
    tables: tuple[Tensor, Tensor] | None  # row table (G, T, h), column table (G, T, w)
    numbers: Tensor | None  # (G, T), for dropout

    def tile(self, span: slice) -> Queries:
        """Take some of the T queries."""
        tables = self.tables
        return Queries(
            self.query[:, span],
            None if tables is None else (tables[0][:, span], tables[1][:, span]),
            None if self.numbers is None else self.numbers[:, span],
        )

    def zeros(self) -> Queries:
        """Zeros of the same shapes, in which to accumulate gradients."""
        tables = self.tables
        if tables is not None:
            tables = torch.zeros_like(tables[0]), torch.zeros_like(tables[1])
        return self._replace(query=torch.zeros_like(self.query), tables=tables)

    def view(self, keys: Keys, scratch: Tensor) -> Tensor:
        """View the start of ``scratch`` as (G, T, K)."""
        shape = *self.query.shape[:2], keys.key.shape[1]
        return scratch[: math.prod(shape)].view(shape)

    def logits(self, keys: Keys, scratch: Tensor) -> Tensor:
        """The logits (G, T, K) in base 2, written to the start of ``scratch``."""
        out = self.view(keys, scratch)
        if self.tables is None:
            return torch.bmm(self.query, keys.key_t, out=out)
        by_row = self.tables[0][..., keys.block.rows].unsqueeze(3)
        by_column = self.tables[1][..., keys.block.columns].unsqueeze(2)
        torch.add(by_row, by_column, out=keys.block.on_grid(out))
        return out.baddbmm_(self.query, keys.key_t)


class HeadGroup:
    """The inputs of a few heads, in the precision of the computation.

    Args:
        index: Which images and which heads: two slices.
        query: And the other inputs as in :mod:`.operator`.
    """

    def __init__(
        self,
        index: tuple[slice, slice],
        query: Tensor,
        key: Tensor,
        value: Tensor,
        content_scale: Tensor,
        position_query: Tensor | None,
        rows: Tensor | None,
        columns: Tensor | None,
    ) -> None:
        dtype = compute_dtype(query)
        self.index = index
        self.scale = content_scale[index].to(dtype).flatten(0, 1).squeeze(-1)  # (G, 1, 1)
        self.query = query[index].to(dtype)  # (b, g, H, W, d), where G = b * g
        self.key = key[index].to(dtype).flatten(2, 3).flatten(0, 1)  # (G, M, d)
        self.value = value[index].to(dtype).flatten(2, 3).flatten(0, 1)  # (G, M, d)
        self.position_query = None
        if position_query is not None and rows is not None and columns is not None:
            self.position_query = position_query[index].to(dtype)  # (b, g, H, W, d)
            # All images share the codes. (g, H, h, d) and (g, W, w, d)
            self.rows, self.columns = (
                codes[:, :, index[1]].to(dtype).permute(2, 0, 1, 3)
                for codes in (rows, columns)
            )

    def queries(self, at: tuple[slice, slice], mask: KeepMask | None) -> Queries:
        """The queries of a rectangle."""
        query = self.query[:, :, at[0], at[1]].flatten(2, 3).flatten(0, 1)
        query = query * (LOG2_E * self.scale)
        tables = numbers = None
        if self.position_query is not None:
            position_query = LOG2_E * self.position_query[:, :, at[0], at[1]]
            # All queries of a row share its codes; all queries of a column share its codes.
            by_row = position_query @ self.rows[:, at[0]].transpose(2, 3)
            by_column = position_query.transpose(2, 3) @ self.columns[:, at[1]].transpose(
                2, 3
            )
            tables = (
                by_row.flatten(2, 3).flatten(0, 1),
                by_column.transpose(2, 3).flatten(2, 3).flatten(0, 1),
            )
        if mask is not None:
            numbers = mask.queries[self.index][:, :, at[0], at[1]]
            numbers = numbers.flatten(2, 3).flatten(0, 1)
        return Queries(query, tables, numbers)

    def keys(self, blocks: list[KeyBlock], mask: KeepMask | None) -> list[Keys]:
        """The keys of every block."""
        key_t = self.key.transpose(1, 2).contiguous()  # products with a copy are faster
        numbers = None
        if mask is not None:
            numbers = mask.keys[self.index].flatten(2, 3).flatten(0, 1)
        return [
            Keys(
                block,
                self.key[:, block.keys],
                self.value[:, block.keys],
                key_t[:, :, block.keys],
                None if numbers is None else numbers[:, block.keys],
            )
            for block in blocks
        ]


class Scratch:
    """Memory for the weights of a tile, their gradients, and which of them are kept.

    Allocating it anew for each tile would take as long as computing the tile.

    Args:
        query: Tells the dtype and the device.
        tiling: How the attention is divided.
        mask: For dropout.
        backward: Whether there are gradients.
    """

    def __init__(
        self, query: Tensor, tiling: Tiling, mask: KeepMask | None, backward: bool
    ) -> None:
        most = tiling.most_weights
        self.mask = mask
        self.weights = query.new_empty(most, dtype=compute_dtype(query))
        self.d_weights = self.weights.new_empty(most if backward else 0)
        bits = torch.int64 if self.weights.dtype == torch.float64 else torch.int32
        self.kept = query.new_empty(0 if mask is None else most, dtype=bits)

    def kept_weights(self, queries: Queries, keys: Keys, weights: Tensor) -> Tensor:
        """The weights, (G, T, K), with zeros for those that dropout drops.

        ``weights`` themselves without dropout, otherwise a tensor of its own.
        """
        if self.mask is None or queries.numbers is None or keys.numbers is None:
            return weights
        out = queries.view(keys, self.kept)
        keep = self.mask(queries.numbers, keys.numbers, out=out)
        # As integers, bit by bit: a product of integers and floats converts in a copy.
        return keep.mul_(weights.view(keep.dtype)).view(weights.dtype)
