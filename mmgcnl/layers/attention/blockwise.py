"""Attention in memory that grows with N, on any device: a tile of queries at a time.

The N x M weights exist for one tile of one head at a time: in the forward pass, and, made
anew from the parts of the logits, in the backward pass. Both are operators of their own,
so that torch.compile takes them as they are instead of unrolling the loop over the tiles.

Shape shorthand: B images, n heads, d channels of a head, (H, W) the query grid, (h, w)
the key grid, M = h * w, P these and their padding, (Y, X) a rectangle of the query grid,
T queries of a tile.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .logits import Logits
from .tiles import KeepMask, Tile, query_tiles


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
        self.index = index
        self.scale = content_scale[index].item()
        self.query = query[index].to(dtype)  # (H, W, d)
        self.num_keys = key.shape[2] * key.shape[3]
        self.key = key[index].flatten(0, 1).to(dtype)  # (P, d)
        self.value = value[index].flatten(0, 1).to(dtype)  # (P, d)
        if padding := _padding(self.num_keys):
            self.key, self.value = (
                F.pad(t, (0, 0, 0, padding)) for t in (self.key, self.value)
            )
        self.met = None
        if met is not None and rows is not None and columns is not None:
            self.met = met[index].to(dtype)  # (H, W, d)
            self.rows = rows[:, :, index[1]].to(dtype)  # (H, h, d)
            self.columns = columns[:, :, index[1]].to(dtype)  # (W, w, d)

    def tables(self, tile: Tile) -> tuple[Tensor, Tensor] | None:
        """Row table (Y * X, h) and column table (Y * X, w) of the tile's rectangle."""
        if self.met is None:
            return None
        met = self.met[tile.rows, tile.columns]
        # The queries of a row share its codes, those of a column its codes.
        by_row = met @ self.rows[tile.rows].mT
        by_column = met.transpose(0, 1) @ self.columns[tile.columns].mT
        return by_row.flatten(0, 1), by_column.transpose(0, 1).flatten(0, 1)


def _heads(query: Tensor, *inputs: Any) -> Iterator[_Head]:
    for index in itertools.product(*map(range, query.shape[:2])):
        yield _Head(index, query, *inputs)


def _padding(num_keys: int) -> int:
    # Rows of weights that lie a multiple of 2 KiB apart get in each other's way in a cache.
    return 0 if num_keys % 512 else 16


def _weights(
    head: _Head,
    query: Tensor,
    tables: tuple[Tensor, Tensor] | None,
    tile: Tile,
    out: Tensor,
) -> Tensor:
    """The softmax over keys of a tile of ``query``, (T, P), in ``out``."""
    if tables is not None:
        by_row, by_column = (table[tile.queries] for table in tables)
        on_grid = out[:, : head.num_keys].unflatten(1, (by_row.shape[1], -1))
        torch.add(by_row.unsqueeze(2), by_column.unsqueeze(1), out=on_grid)
    # With beta=0 what is in out, if only memory that was never set, is not looked at.
    beta = 0 if tables is None else 1
    out.addmm_(query[tile.queries], head.key.t(), beta=beta, alpha=head.scale)
    out[:, head.num_keys :] = -torch.inf
    # In place: each row is read for the last time where it is written.
    return torch.softmax(out, dim=-1, out=out)


def _keep(mask: KeepMask, head: _Head, tile: Tile) -> Tensor:
    """Which weights dropout keeps, (T, P)."""
    shape = tile.queries.stop - tile.queries.start, head.num_keys
    keep = mask(head.index, tile.number, shape)
    padding = _padding(head.num_keys)
    return F.pad(keep, (0, padding)) if padding else keep  # to pad by nothing would copy


def _buffers(count: int, query: Tensor, num_keys: int, rectangles: list) -> list[Tensor]:
    """Room for the (T, P) of any tile: to allocate it anew costs as much as its use."""
    queries = max(t.queries.stop - t.queries.start for tiles in rectangles for t in tiles)
    dtype = torch.promote_types(query.dtype, torch.float32)
    shape = queries, num_keys + _padding(num_keys)
    return [query.new_empty(shape, dtype=dtype) for _ in range(count)]


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
    rectangles = query_tiles(query.shape[2:4], key.shape[2:4], query.device.type)
    mask = KeepMask(dropout_p, seed, query.device) if seed is not None else None
    (buffer,) = _buffers(1, query, key.shape[2:4].numel(), rectangles)
    with torch.autocast(query.device.type, enabled=False):
        for head in _heads(query, key, value, content_scale, met, rows, columns):
            for tiles in rectangles:
                of_rectangle = tiles[0].rows, tiles[0].columns
                q = head.query[of_rectangle].flatten(0, 1)
                tables = head.tables(tiles[0])
                y = torch.empty_like(q)
                for tile in tiles:
                    queries = tile.queries
                    weights = buffer[: queries.stop - queries.start]
                    _weights(head, q, tables, tile, out=weights)
                    if mask is not None:
                        weights *= _keep(mask, head, tile)
                    torch.mm(weights, head.value, out=y[queries])
                if mask is not None:
                    y *= mask.scale
                at = out[head.index][of_rectangle]
                at.copy_(y.view(at.shape))
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
        # These collect from all images.
        d_rows, d_columns = (t.new_zeros(t.shape, dtype=dtype) for t in (rows, columns))
        grads += [d_met, d_rows, d_columns]
    if grad.numel() == 0:
        return grads
    rectangles = query_tiles(query.shape[2:4], key.shape[2:4], query.device.type)
    mask = KeepMask(dropout_p, seed, query.device) if seed is not None else None
    buffers = _buffers(2, query, key.shape[2:4].numel(), rectangles)
    with torch.autocast(query.device.type, enabled=False):
        for head in _heads(query, key, value, content_scale, met, rows, columns):
            d_k, d_v = torch.zeros_like(head.key), torch.zeros_like(head.value)
            for tiles in rectangles:
                of_rectangle = tiles[0].rows, tiles[0].columns
                q = head.query[of_rectangle].flatten(0, 1)
                dy = grad[head.index][of_rectangle].to(dtype).flatten(0, 1)
                if mask is not None:
                    dy = dy * mask.scale
                d_q = torch.empty_like(q)
                tables = head.tables(tiles[0])
                d_tables = [torch.empty_like(table) for table in tables or ()]
                for tile in tiles:
                    queries = tile.queries
                    weights, d_weights = (
                        b[: queries.stop - queries.start] for b in buffers
                    )
                    _weights(head, q, tables, tile, out=weights)
                    torch.mm(dy[queries], head.value.t(), out=d_weights)
                    dropped = weights
                    if mask is not None:
                        keep = _keep(mask, head, tile)
                        d_weights *= keep
                        dropped = weights * keep
                    d_v.addmm_(dropped.t(), dy[queries])
                    d_logits = torch.ops.aten._softmax_backward_data.out(
                        d_weights, weights, -1, dtype, grad_input=d_weights
                    )
                    torch.mm(d_logits, head.key, out=d_q[queries])
                    d_k.addmm_(d_logits.t(), q[queries], alpha=head.scale)
                    if tables is not None:
                        d_bias = d_logits[:, : head.num_keys].unflatten(1, key.shape[2:4])
                        for axis, d_table in zip((2, 1), d_tables):
                            torch.sum(d_bias, axis, out=d_table[queries])
                at = d_query[head.index][of_rectangle]
                at.copy_((d_q * head.scale).view(at.shape))
                if head.met is not None:
                    m = head.met[of_rectangle]
                    by_row, by_column = (t.unflatten(0, m.shape[:2]) for t in d_tables)
                    by_column = by_column.transpose(0, 1)
                    y, x = of_rectangle
                    d_met[head.index][of_rectangle] = by_row @ head.rows[y] + (
                        by_column @ head.columns[x]
                    ).transpose(0, 1)
                    d_rows[y, :, head.index[1]] += by_row.mT @ m
                    d_columns[x, :, head.index[1]] += by_column.mT @ m.transpose(0, 1)
            d_key[head.index] = d_k[: head.num_keys].view(d_key[head.index].shape)
            d_value[head.index] = d_v[: head.num_keys].view(d_value[head.index].shape)
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
