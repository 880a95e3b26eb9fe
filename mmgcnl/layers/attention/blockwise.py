"""Attention in memory that grows with N, on any device: a tile of queries at a time.

The N x M weights exist for one tile of one head at a time: in the forward pass, and, made
anew from the parts of the logits, in the backward pass. Both are operators of their own,
so that torch.compile takes them as they are instead of unrolling the loop over the tiles.

Shape shorthand: B images, n heads, d channels of a head, (H, W) the query grid, (h, w)
the key grid, M = h * w, (Y, X) a tile of the query grid, T = Y * X.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .logits import Logits
from .tiles import KeepMask, query_tiles


def blockwise_attention(
    logits: Logits, value: Tensor, dropout_p: float = 0.0, seed: Tensor | None = None
) -> Tensor:
    """As :func:`.dense.dense_attention`, in memory that does not grow with N x M.

    It computes in float32 at least, whatever the precision of the input. There are no
    second derivatives.
    """
    query, key, content_scale, position = logits
    content_scale = content_scale.expand(*query.shape[:2], 1, 1, 1)
    met, rows, columns = position or (None, None, None)
    met = None if met is None else met.expand(query.shape)
    return _forward(query, key, value, content_scale, met, rows, columns, dropout_p, seed)


class _Head:
    """One head of one image, in the precision of the computation."""

    def __init__(
        self,
        index: tuple[int, ...],
        query: Tensor,
        key: Tensor,
        value: Tensor,
        content_scale: Tensor,
        met: Tensor | None,
        rows: Tensor | None,
        columns: Tensor | None,
    ) -> None:
        dtype = torch.promote_types(query.dtype, torch.float32)
        self.scale = content_scale[index].item()
        self.query = query[index].to(dtype)  # (H, W, d)
        self.key = key[index].flatten(0, 1).to(dtype)  # (M, d)
        self.value = value[index].flatten(0, 1).to(dtype)  # (M, d)
        self.met = None
        if met is not None and rows is not None and columns is not None:
            self.met = met[index].to(dtype)  # (H, W, d)
            self.rows = rows[:, :, index[1]].to(dtype)  # (H, h, d)
            self.columns = columns[:, :, index[1]].to(dtype)  # (W, w, d)

    def weights(self, tile: tuple[slice, slice], scratch: Tensor, out: Tensor) -> Tensor:
        """The softmax over keys, (T, M), in ``out``."""
        query = self.query[tile].flatten(0, 1)
        if self.met is None:
            torch.mm(query, self.key.t(), out=scratch).mul_(self.scale)
        else:
            met = self.met[tile]
            # The queries of a row share its codes, those of a column its codes.
            row_table = met @ self.rows[tile[0]].mT
            column_table = (met.transpose(0, 1) @ self.columns[tile[1]].mT).transpose(0, 1)
            grid = (*met.shape[:2], row_table.shape[2], column_table.shape[2])
            torch.add(
                row_table.unsqueeze(3), column_table.unsqueeze(2), out=scratch.view(grid)
            )
            scratch.addmm_(query, self.key.t(), alpha=self.scale)
        return torch.softmax(scratch, dim=-1, out=out)


def _heads(query: Tensor, *inputs: Any) -> Iterator[tuple[tuple[int, ...], _Head]]:
    """Index (image, head) and :class:`_Head` of each head of each image."""
    for index in itertools.product(*map(range, query.shape[:2])):
        yield index, _Head(index, query, *inputs)


def _buffers(count: int, query: Tensor, num_keys: int, tiles: list) -> list[Tensor]:
    """Room for the (T, M) of any tile: to allocate it anew costs as much as its use."""
    queries = max(query[0, 0][tile][..., 0].numel() for tile in tiles)
    dtype = torch.promote_types(query.dtype, torch.float32)
    return [query.new_empty((queries, num_keys), dtype=dtype) for _ in range(count)]


_INPUTS = (
    'Tensor query, Tensor key, Tensor value, Tensor content_scale, '
    'Tensor? met, Tensor? rows, Tensor? columns, float dropout_p, Tensor? seed'
)


@torch.library.custom_op(
    'mmgcnl::blockwise_attention', mutates_args=(), schema=f'({_INPUTS}) -> Tensor'
)
def _forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    content_scale: Tensor,
    met: Tensor | None,
    rows: Tensor | None,
    columns: Tensor | None,
    dropout_p: float,
    seed: Tensor | None,
) -> Tensor:
    out = value.new_empty(query.shape)
    if out.numel() == 0:
        return out
    num_keys = key.shape[2:4].numel()
    tiles = query_tiles(query.shape[2:4], num_keys, query.device.type)
    mask = KeepMask(dropout_p, seed, query.device) if seed is not None else None
    buffers = _buffers(2, query, num_keys, tiles)
    with torch.autocast(query.device.type, enabled=False):
        for index, head in _heads(query, key, value, content_scale, met, rows, columns):
            for number, tile in enumerate(tiles):
                y = out[index][tile]
                scratch, weights = (buffer[: y[..., 0].numel()] for buffer in buffers)
                head.weights(tile, scratch, out=weights)
                if mask is not None:
                    weights *= mask(index, number, weights.shape)
                    weights *= mask.scale
                y.copy_((weights @ head.value).view(y.shape))
    return out


@_forward.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, *others: Any) -> Tensor:
    return value.new_empty(query.shape)


@torch.library.custom_op(
    'mmgcnl::blockwise_attention_backward',
    mutates_args=(),
    schema=f'(Tensor grad, {_INPUTS}) -> Tensor[]',
)
def _backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    content_scale: Tensor,
    met: Tensor | None,
    rows: Tensor | None,
    columns: Tensor | None,
    dropout_p: float,
    seed: Tensor | None,
) -> list[Tensor]:
    """The gradients of query, key, value and, where given, of met, rows and columns."""
    dtype = torch.promote_types(query.dtype, torch.float32)
    d_query, d_key, d_value = (t.new_zeros(t.shape) for t in (query, key, value))
    grads = [d_query, d_key, d_value]
    if met is not None and rows is not None and columns is not None:
        d_met = met.new_zeros(met.shape)
        # These collect from all images and tiles.
        d_rows, d_columns = (t.new_zeros(t.shape, dtype=dtype) for t in (rows, columns))
        grads += [d_met, d_rows, d_columns]
    if grad.numel() == 0:
        return grads
    num_keys = key.shape[2:4].numel()
    tiles = query_tiles(query.shape[2:4], num_keys, query.device.type)
    mask = KeepMask(dropout_p, seed, query.device) if seed is not None else None
    buffers = _buffers(2 if mask is None else 3, query, num_keys, tiles)
    with torch.autocast(query.device.type, enabled=False):
        for index, head in _heads(query, key, value, content_scale, met, rows, columns):
            d_k, d_v = torch.zeros_like(head.key), torch.zeros_like(head.value)
            for number, tile in enumerate(tiles):
                dy = grad[index][tile].to(dtype).flatten(0, 1)
                scratch, weights, *kept = (buffer[: dy.shape[0]] for buffer in buffers)
                head.weights(tile, scratch, out=weights)
                d_weights = torch.mm(dy, head.value.t(), out=scratch)
                if mask is None:
                    d_v.addmm_(weights.t(), dy)
                else:
                    keep = mask(index, number, weights.shape)
                    torch.mul(weights, keep, out=kept[0])
                    d_v.addmm_(kept[0].t(), dy, alpha=mask.scale)
                    d_weights *= keep
                    d_weights *= mask.scale
                d_logits = torch.ops.aten._softmax_backward_data.out(
                    d_weights, weights, -1, dtype, grad_input=d_weights
                )
                d_q = (d_logits @ head.key).mul_(head.scale)
                d_query[index][tile] = d_q.view(d_query[index][tile].shape)
                d_k.addmm_(d_logits.t(), head.query[tile].flatten(0, 1), alpha=head.scale)
                if head.met is not None:
                    m = head.met[tile]
                    d_bias = d_logits.view(*m.shape[:2], *key.shape[2:4])
                    by_row, by_column = d_bias.sum(3), d_bias.sum(2).transpose(0, 1)
                    d_met[index][tile] = by_row @ head.rows[tile[0]] + (
                        by_column @ head.columns[tile[1]]
                    ).transpose(0, 1)
                    d_rows[tile[0], :, index[1]] += by_row.mT @ m
                    d_columns[tile[1], :, index[1]] += by_column.mT @ m.transpose(0, 1)
            d_key[index] = d_k.view(d_key[index].shape)
            d_value[index] = d_v.view(d_value[index].shape)
    if rows is not None and columns is not None:
        grads[4:] = [d_rows.to(rows.dtype), d_columns.to(columns.dtype)]
    return grads


@_backward.register_fake
def _(grad: Tensor, *inputs: Any) -> list[Tensor]:
    query, key, value, _, *position = inputs[:7]
    return [t.new_empty(t.shape) for t in (query, key, value, *position) if t is not None]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.dropout_p, seed = inputs
    ctx.save_for_backward(*tensors, seed)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    *tensors, seed = ctx.saved_tensors
    grads = _backward(grad, *tensors, ctx.dropout_p, seed)
    position = grads[3:] or (None, None, None)
    return (*grads[:3], None, *position, None, None)


_forward.register_autograd(_gradients, setup_context=_setup_context)
