"""The blockwise attention of a few heads, forward and backward.

The weights exist for one tile of queries and one block of keys at a time. The forward pass
merges the softmax of the blocks by their logarithms of the sum of exp (lse); the backward
pass computes the weights again from it (Dao et al., 2022).

Shape shorthand: G = b * g, heads g of images b, (H, W) the query grid, (h, w) the key grid,
d channels, T queries of a tile, K keys of a block.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .dropout import KeepMask
from .heads import Heads, Keys, Queries, Scratch
from .tiles import Tiling

#: Up to this magnitude of lse, its rounding to float32 changes the weights by less than
#: 1e-5. Beyond it, the backward pass normalises them by their sum.
MAX_LSE = 64.0


def _fused(mask: KeepMask | None, query: Tensor) -> bool:
    return mask is None and query.device.type == 'cpu'


def _attend(tile: Queries, keys: Keys, scratch: Scratch) -> tuple[Tensor, Tensor]:
    """The output (G, T, d) and lse (G, T, 1) of some queries over some keys."""
    if _fused(scratch.mask, tile.query):
        # PyTorch's fused attention, which F.scaled_dot_product_attention calls, too.
        # That returns no lse.
        position = tile.position(keys, scratch.weights)
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            *(t.unsqueeze(0) for t in (tile.query, keys.key, keys.value)),
            attn_mask=None if position is None else position.unsqueeze(0),
            scale=1.0,
        )
        return out.squeeze(0), lse.squeeze(0).unsqueeze(-1)
    weights = tile.logits(keys, scratch.weights)
    largest = weights.amax(2, keepdim=True)
    weights.sub_(largest).exp_()
    total = weights.sum(2, keepdim=True)
    scratch.drop(weights, scratch.keep(tile, keys))
    return torch.bmm(weights, keys.value).div_(total), total.log().add_(largest)


def forward_heads(
    heads: Heads, tiling: Tiling, scratch: Scratch, results: tuple[Tensor, ...]
) -> None:
    """Fill ``results``: output (b, g, H, W, d) and lse (b, g, H, W, 1)."""
    mask = scratch.mask
    fused = _fused(mask, heads.query)
    all_keys = heads.keys(tiling.blocks, mask, transpose=not fused)
    for rectangle in tiling.rectangles:
        at = ..., rectangle.rows, rectangle.columns, slice(None)
        queries = heads.queries(at[1:3], mask)
        of_rectangle = (
            torch.empty_like(queries.query),
            queries.query.new_empty(*queries.query.shape[:2], 1),
        )
        for span in rectangle.tiles:
            tile = queries.tile(span)
            out, lse = _attend(tile, all_keys[0], scratch)
            for keys in all_keys[1:]:
                of_block, block_lse = _attend(tile, keys, scratch)
                out = torch.lerp(out, of_block, torch.sigmoid(block_lse - lse))
                lse = torch.logaddexp(lse, block_lse)
            of_rectangle[0][:, span], of_rectangle[1][:, span] = out, lse
        if mask is not None:
            of_rectangle[0].mul_(mask.scale)
        for result, part in zip(results, of_rectangle):
            result[at] = part.view(result[at].shape)


def _weights(tile: Queries, keys: Keys, lse: Tensor, scratch: Scratch) -> Tensor:
    """The weights (G, T, K), with lse subtracted from the row tables, if there are any."""
    weights = tile.logits(keys, scratch.weights)
    if tile.tables is None:
        weights.sub_(lse)
    return weights.exp_()


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


def backward_heads(
    heads: Heads,
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
    d_key, d_value = torch.zeros_like(heads.key), torch.zeros_like(heads.value)
    all_keys = heads.keys(tiling.blocks, mask, transpose=True)
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
        d_queries = queries.zeros()
        for span in rectangle.tiles:
            tile, d_tile, d_y = queries.tile(span), d_queries.tile(span), dy[:, span]
            for keys in all_keys:
                at_keys = keys.block.keys
                weights = _weights(tile, keys, lse[:, span], scratch)
                d_weights = tile.view(keys, scratch.d_weights)
                torch.bmm(d_y, keys.value_t, out=d_weights)
                keep = scratch.keep(tile, keys)
                scratch.drop(d_weights, keep)
                d_logits = d_weights.sub_(delta[:, span]).mul_(weights)
                scratch.drop(weights, keep)
                d_value[:, at_keys].baddbmm_(weights.transpose(1, 2), d_y)
                d_tile.query.baddbmm_(d_logits, keys.key)
                d_key[:, at_keys].baddbmm_(d_logits.transpose(1, 2), tile.query)
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
    for result, of_keys in zip(grads[1:3], (d_key, d_value)):
        result.copy_(of_keys.view(result.shape))
    return d_codes
