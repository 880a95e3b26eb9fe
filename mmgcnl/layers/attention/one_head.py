"""The blockwise attention of one head of one image, forward and backward.

The weights exist for one tile of queries and one block of keys at a time. The forward pass
keeps a running softmax (Milakov and Gimelshein, 2018); the backward pass computes the
weights again (Dao et al., 2022).

Shape shorthand: (H, W) the query grid, (h, w) the key grid, M = h * w, d channels, T
queries of a tile, K keys of a block.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .dropout import KeepMask
from .tiles import KeyBlock, cut


def compute_dtype(query: Tensor) -> torch.dtype:
    """The precision of the computation: float32 at least."""
    return torch.promote_types(query.dtype, torch.float32)


class Keys(NamedTuple):
    """A block of keys of a head."""

    block: KeyBlock
    key: Tensor  # (d, K)
    value: Tensor  # (K, d)
    numbers: Tensor | None  # (K,), for dropout


class Queries(NamedTuple):
    """Queries of a head: a rectangle of the grid, or a tile of one."""

    scale: float
    query: Tensor  # (T, d)
    tables: tuple[Tensor, Tensor] | None  # row table (T, h) and column table (T, w)
    numbers: Tensor | None  # (T,), for dropout

    def tile(self, span: slice) -> Queries:
        tables = self.tables
        return Queries(
            self.scale,
            self.query[span],
            None if tables is None else (tables[0][span], tables[1][span]),
            None if self.numbers is None else self.numbers[span],
        )

    def zeros(self) -> Queries:
        """Zeros of the same shapes, in which to accumulate gradients."""
        tables = self.tables
        if tables is not None:
            tables = torch.zeros_like(tables[0]), torch.zeros_like(tables[1])
        return self._replace(query=torch.zeros_like(self.query), tables=tables)

    def view(self, keys: Keys, scratch: Tensor) -> Tensor:
        """View the start of ``scratch`` as (T, K)."""
        shape = len(self.query), len(keys.value)
        return scratch[: math.prod(shape)].view(shape)

    def logits(self, keys: Keys, scratch: Tensor) -> Tensor:
        """The logits (T, K), written to the start of ``scratch``."""
        logits = self.view(keys, scratch)
        # beta=0 ignores what the uninitialised memory holds, even if it is not finite.
        beta = 0
        if self.tables is not None:
            by_row = self.tables[0][:, keys.block.rows].unsqueeze(2)
            by_column = self.tables[1][:, keys.block.columns].unsqueeze(1)
            torch.add(by_row, by_column, out=keys.block.on_grid(logits))
            beta = 1
        return logits.addmm_(self.query, keys.key, beta=beta, alpha=self.scale)


class Head:
    """The inputs of one head of one image, in the precision of the computation."""

    def __init__(
        self,
        index: tuple[int, ...],
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
        self.scale = content_scale[index].item()
        self.query = query[index].to(dtype)  # (H, W, d)
        self.key = key[index].flatten(0, 1).to(dtype)  # (M, d)
        self.value = value[index].flatten(0, 1).to(dtype)  # (M, d)
        self.position_query = None
        if position_query is not None and rows is not None and columns is not None:
            self.position_query = position_query[index].to(dtype)  # (H, W, d)
            self.rows = rows[:, :, index[1]].to(dtype)  # (H, h, d)
            self.columns = columns[:, :, index[1]].to(dtype)  # (W, w, d)

    def queries(self, at: tuple[slice, slice], mask: KeepMask | None) -> Queries:
        """The queries of a rectangle."""
        query = self.query[at].flatten(0, 1)
        tables = numbers = None
        if self.position_query is not None:
            position_query = self.position_query[at]
            # All queries of a row share its codes; all queries of a column share its codes.
            by_row = position_query @ self.rows[at[0]].mT
            by_column = position_query.transpose(0, 1) @ self.columns[at[1]].mT
            tables = by_row.flatten(0, 1), by_column.transpose(0, 1).flatten(0, 1)
        if mask is not None:
            numbers = mask.queries[self.index][at].flatten()
        return Queries(self.scale, query, tables, numbers)

    def keys(self, blocks: list[KeyBlock], mask: KeepMask | None) -> list[Keys]:
        numbers = None if mask is None else mask.keys[self.index].flatten()
        return [
            Keys(
                block,
                self.key[block.keys].t(),
                self.value[block.keys],
                None if numbers is None else numbers[block.keys],
            )
            for block in blocks
        ]


class Work:
    """How the attention is divided into tiles and blocks, and its dropout."""

    def __init__(
        self, query: Tensor, key: Tensor, dropout_p: float, seed: Tensor | None
    ) -> None:
        size, key_size = query.shape[:4], key.shape[2:4]
        self.rectangles, self.blocks = cut(size[2:], key_size, query.device.type)
        self.mask = None
        if seed is not None:
            self.mask = KeepMask(dropout_p, seed, size, key_size, query.device)

    def scratch(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Scratch memory for the weights of any tile, and for which of them are kept.

        Allocating it anew for each tile would take as long as computing the tile.
        """
        queries = max(t.stop - t.start for r in self.rectangles for t in r.tiles)
        numel = queries * max(b.keys.stop - b.keys.start for b in self.blocks)
        kept = 0 if self.mask is None else numel
        return like.new_empty(numel), like.new_empty(kept, dtype=torch.int32)

    def keep(self, queries: Queries, keys: Keys, scratch: Tensor) -> Tensor | None:
        """Which weights dropout keeps, (T, K) in ``scratch``; None without dropout."""
        if self.mask is None or queries.numbers is None or keys.numbers is None:
            return None
        out = queries.view(keys, scratch)
        return self.mask(queries.numbers, keys.numbers, out=out)


def _exp_of_difference(x: Tensor, y: Tensor) -> Tensor:
    """exp(x - y), written to the memory of x."""
    # On some CPUs PyTorch's exp takes three times as long as its exp2. Changing the base
    # after the subtraction costs no precision.
    return x.sub_(y).mul_(math.log2(math.e)).exp2_()


def forward_head(head: Head, work: Work, results: tuple[Tensor, ...]) -> None:
    """Fill ``results``: output (H, W, d), row_max and row_sum (H, W, 1), see blockwise."""
    scratch, keep_scratch = work.scratch(head.key)
    all_keys = head.keys(work.blocks, work.mask)
    for rectangle in work.rectangles:
        at = rectangle.rows, rectangle.columns
        queries = head.queries(at, work.mask)
        out = torch.zeros_like(queries.query)
        row_max = torch.full_like(out[:, :1], -torch.inf)
        row_sum = torch.zeros_like(row_max)
        for span in rectangle.tiles:
            tile, y = queries.tile(span), out[span]
            tile_max, tile_sum = row_max[span], row_sum[span]
            for keys in all_keys:
                weights = tile.logits(keys, scratch)
                new_max = torch.maximum(tile_max, weights.amax(1, keepdim=True))
                _exp_of_difference(weights, new_max)
                correction = _exp_of_difference(tile_max, new_max)
                block_sum = weights.sum(1, keepdim=True)
                torch.addcmul(block_sum, tile_sum, correction, out=tile_sum)
                keep = work.keep(tile, keys, keep_scratch)
                if keep is not None:
                    weights *= keep
                y.mul_(correction).addmm_(weights, keys.value)
                tile_max = new_max
            row_max[span] = tile_max
        out /= row_sum if work.mask is None else row_sum / work.mask.scale
        for result, of_rectangle in zip(results, (out, row_max, row_sum)):
            result[at] = of_rectangle.view(result[at].shape)


def backward_head(
    head: Head, work: Work, saved: list[Tensor], grads: list[Tensor]
) -> list[Tensor]:
    """The gradients of one head.

    Args:
        head: The inputs.
        work: As in the forward pass.
        saved: The gradient of the output (H, W, d), row_max and row_sum (H, W, 1).
        grads: Filled with the gradients of query (H, W, d), key and value (h, w, d) and,
            with position, of the position query (H, W, d).

    Returns:
        The gradients of the codes: rows (H, h, d) and columns (W, w, d), or nothing.
    """
    scratch, keep_scratch = work.scratch(head.key)
    d_scratch = torch.empty_like(scratch)
    d_key, d_value = torch.zeros_like(head.key), torch.zeros_like(head.value)
    all_keys = [
        (keys, d_key[keys.block.keys], d_value[keys.block.keys])
        for keys in head.keys(work.blocks, work.mask)
    ]
    d_codes = []
    if head.position_query is not None:
        d_codes = [torch.zeros_like(head.rows), torch.zeros_like(head.columns)]

    def products(
        tile: Queries, keys: Keys, tile_max: Tensor, d_y: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Unnormalised weights, their gradients, and which of them dropout keeps."""
        weights = _exp_of_difference(tile.logits(keys, scratch), tile_max)
        d_weights = tile.view(keys, d_scratch)
        torch.mm(d_y, keys.value.t(), out=d_weights)
        keep = work.keep(tile, keys, keep_scratch)
        if keep is not None:
            d_weights *= keep
        return weights, d_weights, keep

    for rectangle in work.rectangles:
        at = rectangle.rows, rectangle.columns
        queries = head.queries(at, work.mask)
        dy, row_max, row_sum = (t[at].flatten(0, 1) for t in saved)
        # The weights stay unnormalised; `dy` is divided by the row sum instead.
        dy = dy / (row_sum if work.mask is None else row_sum / work.mask.scale)
        d_queries = queries.zeros()
        for span in rectangle.tiles:
            tile, d_tile = queries.tile(span), d_queries.tile(span)
            tile_max, tile_sum, d_y = row_max[span], row_sum[span], dy[span]
            # delta could also be computed from the output. But it is subtracted from
            # nearly equal numbers, so it must be rounded exactly as they are.
            delta = torch.zeros_like(tile_max)
            for keys, _, _ in all_keys:
                weights, d_weights, keep = products(tile, keys, tile_max, d_y)
                delta += (weights * d_weights).sum(1, keepdim=True)
            delta /= tile_sum
            for keys, d_k, d_v in all_keys:
                if len(all_keys) > 1:
                    weights, d_weights, keep = products(tile, keys, tile_max, d_y)
                d_logits = d_weights.sub_(delta).mul_(weights)
                if keep is not None:
                    weights *= keep
                d_v.addmm_(weights.t(), d_y)
                d_tile.query.addmm_(d_logits, keys.key.t())
                d_k.addmm_(d_logits.t(), tile.query, alpha=head.scale)
                if d_tile.tables is not None:
                    on_grid = keys.block.on_grid(d_logits)
                    d_tile.tables[0][:, keys.block.rows] += on_grid.sum(2)
                    d_tile.tables[1][:, keys.block.columns] += on_grid.sum(1)
        d_query = d_queries.query * head.scale
        grads[0][at] = d_query.view(grads[0][at].shape)
        if head.position_query is not None and d_queries.tables is not None:
            position_query = head.position_query[at]
            shape = *position_query.shape[:2], -1
            d_by_row, d_by_column = (table.view(shape) for table in d_queries.tables)
            d_by_column = d_by_column.transpose(0, 1)
            d_position_query = d_by_row @ head.rows[at[0]]
            d_position_query += (d_by_column @ head.columns[at[1]]).transpose(0, 1)
            grads[3][at] = d_position_query
            d_codes[0][at[0]] += d_by_row.mT @ position_query
            d_codes[1][at[1]] += d_by_column.mT @ position_query.transpose(0, 1)
    for result, of_keys in zip(grads[1:3], (d_key, d_value)):
        result.copy_(of_keys.view(result.shape))
    return d_codes
