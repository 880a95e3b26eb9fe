"""The blockwise attention of a few heads, forward and backward.

The weights exist for one tile of queries and one block of keys at a time. The forward pass
adds up the weights and the weighted values, and keeps the logarithm of the sum of the
weights (lse); the backward pass computes the weights again from it (Dao et al., 2022).
Logits and lse are in base 2, see :data:`.head_group.LOG2_E`.

Shape shorthand: G = b * g, heads g of images b, (H, W) the query grid, (h, w) the key grid,
d channels, T queries of a tile, K keys of a block.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .head_group import LOG2_E, HeadGroup, Keys, Queries, Scratch
from .tiles import Tiling

#: Up to this magnitude of lse, its rounding to float32 changes the weights by less than
#: 1e-5. Beyond it, the backward pass normalises them by their sum.
MAX_LSE = 64.0
#: Up to this magnitude of the content part of the logits, the forward pass need not know
#: the largest logit of a query: see :func:`_is_bounded`.
MAX_CONTENT = 40.0


class _Sums(NamedTuple):
    """Sums over the keys that were met so far."""

    values: Tensor  # (G, T, d), weighted
    weights: Tensor  # (G, T, 1)
    largest: Tensor | None  # (G, T, 1), the largest logit; None if it is not needed

    @classmethod
    def zeros(cls, queries: Queries, bounded: bool) -> _Sums:
        values = torch.zeros_like(queries.query)
        weights = torch.zeros_like(values[..., :1])
        largest = None if bounded else torch.full_like(weights, -math.inf)
        return cls(values, weights, largest)

    def tile(self, span: slice) -> _Sums:
        values, weights, largest = self
        largest = None if largest is None else largest[:, span]
        return _Sums(values[:, span], weights[:, span], largest)

    def subtract_largest(self, logits: Tensor) -> None:
        """Subtract the largest logit so far from the logits of a block, in place."""
        if self.largest is None:
            return
        largest = logits.amax(2, keepdim=True).maximum(self.largest)
        factor = (self.largest - largest).exp2_()
        self.values.mul_(factor)
        self.weights.mul_(factor)
        self.largest.copy_(largest)
        logits.sub_(largest)


def _is_bounded(queries: Queries, longest_key: Tensor) -> bool:
    """Whether the content part of all logits is at most MAX_CONTENT in magnitude.

    If |q| |k| <= MAX_CONTENT (base 2), no maximum over the keys is needed: once the largest
    position part is subtracted, position is at most zero, and zero for some key, so the
    largest logit lies within MAX_CONTENT of zero. The weights and their sum do not
    overflow, and a weight that float32 cannot hold, below 2^-126, is less than 2^-86 of
    the largest.
    """
    if queries.query.device.type != 'cpu':
        return False  # reading a number would wait for the GPU
    return float(queries.query.norm(dim=2).amax() * longest_key) <= MAX_CONTENT


def _subtract_largest_position(queries: Queries) -> Tensor | None:
    """Make the position part at most zero; return what was subtracted, (G, T, 1)."""
    if queries.tables is None:
        return None
    by_row, by_column = queries.tables
    largest = by_row.amax(2, keepdim=True) + by_column.amax(2, keepdim=True)
    by_row.sub_(largest)
    return largest


def _attend(tile: Queries, all_keys: list[Keys], scratch: Scratch, sums: _Sums) -> None:
    """Add the weights and the weighted values of some queries to ``sums``."""
    for keys in all_keys:
        weights = tile.logits(keys, scratch.weights)
        sums.subtract_largest(weights)
        sums.weights.add_(weights.exp2_().sum(2, keepdim=True))
        sums.values.baddbmm_(scratch.kept_weights(tile, keys, weights), keys.value)


def forward_heads(
    heads: HeadGroup, tiling: Tiling, scratch: Scratch, results: tuple[Tensor, ...]
) -> None:
    """Fill ``results``: output (b, g, H, W, d) and lse (b, g, H, W, 1)."""
    mask = scratch.mask
    all_keys = heads.keys(tiling.blocks, mask)
    longest_key = heads.key.norm(dim=2).amax()
    for rectangle in tiling.rectangles:
        at = ..., rectangle.rows, rectangle.columns, slice(None)
        queries = heads.queries(at[1:3], mask)
        bounded = _is_bounded(queries, longest_key)
        sums = _Sums.zeros(queries, bounded)
        subtracted = _subtract_largest_position(queries) if bounded else sums.largest
        for span in rectangle.tiles:
            _attend(queries.tile(span), all_keys, scratch, sums.tile(span))
        out = sums.values.div_(sums.weights)
        if mask is not None:
            out.mul_(mask.scale)
        lse = sums.weights.log2_()
        if subtracted is not None:
            lse.add_(subtracted)
        for result, part in zip(results, (out, lse)):
            result[at] = part.view(result[at].shape)


def _weights(tile: Queries, keys: Keys, lse: Tensor, scratch: Scratch) -> Tensor:
    """The weights (G, T, K), with lse subtracted from the row tables, if there are any."""
    weights = tile.logits(keys, scratch.weights)
    if tile.tables is None:
        weights.sub_(lse)
    return weights.exp2_()


def _sums_of_weights(
    queries: Queries,
    tiles: list[slice],
    all_keys: list[Keys],
    lse: Tensor,
    scratch: Scratch,
) -> Tensor:
    """Sums over the keys, (G, T, 1): one, up to the rounding of lse."""
    sums = torch.zeros_like(lse)
    for span in tiles:
        for keys in all_keys:
            weights = _weights(queries.tile(span), keys, lse[:, span], scratch)
            sums[:, span] += weights.sum(2, keepdim=True)
    return sums


def _transposed(x: Tensor) -> Tensor:
    """A copy (G, d, L) of (G, L, d)."""
    return x.transpose(1, 2).contiguous()


def backward_heads(
    heads: HeadGroup,
    tiling: Tiling,
    scratch: Scratch,
    saved: list[Tensor],
    grads: list[Tensor],
) -> list[Tensor]:
    """The gradients of a few heads.

    Args:
        heads: The inputs.
        tiling: As in the forward pass.
        scratch: Memory to work in.
        saved: The gradient of the output (b, g, H, W, d), the output and lse
            (b, g, H, W, 1).
        grads: Filled with the gradients of query (b, g, H, W, d), key and value
            (b, g, h, w, d) and, with position, of the position query (b, g, H, W, d).

    Returns:
        The gradients of the codes: rows (g, H, h, d) and columns (g, W, w, d), or nothing.
    """
    mask = scratch.mask
    all_keys = heads.keys(tiling.blocks, mask)
    # Products of matrices that need not be transposed are faster.
    value_t = _transposed(heads.value)
    # Of each block of keys, (G, d, K).
    d_keys, d_values = ([torch.zeros_like(k.key_t) for k in all_keys] for _ in range(2))
    d_codes = []
    if heads.position_query is not None:
        d_codes = [torch.zeros_like(heads.rows), torch.zeros_like(heads.columns)]

    for rectangle in tiling.rectangles:
        at = ..., rectangle.rows, rectangle.columns, slice(None)
        queries = heads.queries(at[1:3], mask)
        dy, y, lse = (t[at].contiguous().flatten(2, 3).flatten(0, 1) for t in saved)
        if queries.tables is not None:
            queries.tables[0].sub_(lse)  # instead of subtracting it from every logit

        if float(lse.abs().max()) > MAX_LSE:
            # Dividing the gradient of the output has the effect of dividing the weights.
            dy = dy / _sums_of_weights(queries, rectangle.tiles, all_keys, lse, scratch)
        # The sum over the keys of the weights times their gradients.
        delta = (dy * y).sum(2, keepdim=True)
        if mask is not None:
            dy = dy * mask.scale
        dy_t, query_t = _transposed(dy), _transposed(queries.query)
        d_queries = queries.zeros()
        for span in rectangle.tiles:
            tile, d_tile, d_y = queries.tile(span), d_queries.tile(span), dy[:, span]
            for keys, d_key, d_value in zip(all_keys, d_keys, d_values):
                weights = _weights(tile, keys, lse[:, span], scratch)
                d_weights = tile.view(keys, scratch.d_weights)
                torch.bmm(d_y, value_t[:, :, keys.block.keys], out=d_weights)
                kept = scratch.kept_weights(tile, keys, weights)
                d_logits = d_weights.mul_(kept).addcmul_(weights, delta[:, span], value=-1)
                d_value.baddbmm_(dy_t[:, :, span], kept)
                d_tile.query.baddbmm_(d_logits, keys.key)
                d_key.baddbmm_(query_t[:, :, span], d_logits)
                if d_tile.tables is not None:
                    on_grid = keys.block.on_grid(d_logits)
                    d_tile.tables[0][..., keys.block.rows] += on_grid.sum(3)
                    d_tile.tables[1][..., keys.block.columns] += on_grid.sum(2)
        grads[0][at] = (d_queries.query * heads.scale).view(grads[0][at].shape)
        if heads.position_query is not None and d_queries.tables is not None:
            position_query = heads.position_query[at]
            shape = *position_query.shape[:4], -1
            d_by_row, d_by_column = (table.view(shape) for table in d_queries.tables)
            d_by_column = d_by_column.transpose(2, 3)
            rows, columns = heads.rows[:, at[1]], heads.columns[:, at[2]]
            d_position_query = d_by_row @ rows
            d_position_query += (d_by_column @ columns).transpose(2, 3)
            grads[3][at] = d_position_query
            d_rows = d_by_row.transpose(3, 4) @ position_query
            d_columns = d_by_column.transpose(3, 4) @ position_query.transpose(2, 3)
            d_codes[0][:, at[1]] += d_rows.sum(0)
            d_codes[1][:, at[2]] += d_columns.sum(0)
    # The queries were multiplied with LOG2_E.
    d_key_t, d_value_t = torch.cat(d_keys, 2).div_(LOG2_E), torch.cat(d_values, 2)
    for result, of_keys in zip(grads[1:3], (d_key_t, d_value_t)):
        result.copy_(of_keys.transpose(1, 2).view(result.shape))
    return d_codes
