"""Attention as one fused kernel on NVIDIA GPUs, forward and backward.

Shape shorthand: B images, n heads, d channels of a head, (H, W) the query grid,
N = H * W, (h, w) the key grid, M = h * w.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from .dropout import KeepMask
from .inputs import AttentionInputs


def triton_attention(
    inputs: AttentionInputs,
    value: Tensor,
    dropout_p: float = 0.0,
    seed: Tensor | None = None,
) -> Tensor:
    """As :func:`.dense.dense_attention`, with no N x M tensor in memory.

    Second derivatives are not supported.
    """
    query, key, content_scale, position = inputs
    grid = query.shape[2:4]
    row_table = column_table = None
    if position is not None:
        row_table, column_table = (
            table.flatten(2, 3).expand(query.shape[0], -1, -1, -1)
            for table in position.tables()
        )
        key_grid = list(key.shape[2:4])
    else:
        key_grid = [1, key.shape[2] * key.shape[3]]
    out, _ = forward_operator(
        query.flatten(2, 3),
        key.flatten(2, 3),
        value.flatten(2, 3),
        content_scale.expand(*query.shape[:2], 1, 1, 1).flatten(),
        row_table,
        column_table,
        key_grid,
        dropout_p,
        seed,
    )
    return out.to(value.dtype).unflatten(2, grid)


@functools.cache
def kernels() -> ModuleType:
    from . import triton_kernels

    return triton_kernels


def _blocks(dims: int, dtype: torch.dtype, width: int) -> dict[str, int]:
    """Sizes of the tiles: with what they hold of d channels they must fit in a core."""
    block_d = max(16, 1 << (dims - 1).bit_length())
    bytes_of_row = block_d * dtype.itemsize
    block_m = 64 if bytes_of_row <= 256 else 32 if bytes_of_row <= 1024 else 16
    # Keys: the widest that leaves little more of the last one of a row empty.
    padded = {n: -(-width // n) * n for n in (16, 32, 64) if n <= block_m}
    block_n = max(n for n in padded if padded[n] <= 1.35 * min(padded.values()))
    return dict(
        d=dims,
        BLOCK_D=block_d,
        BLOCK_M=block_m,
        BLOCK_N=block_n,
        num_warps=4 if bytes_of_row <= 256 else 8,
        num_stages=2 if bytes_of_row <= 256 else 1,
    )


def _common(
    query: Tensor,
    key_grid: list[int],
    position: bool,
    dropout_p: float,
    seed: Tensor | None,
) -> tuple[list[Any], dict[str, Any]]:
    """What all kernels are given: the arguments of dropout, and the constants."""
    dropout = [query, query, 0, 1.0]  # not looked at
    if seed is not None:
        size = *query.shape[:2], 1, query.shape[2]
        mask = KeepMask(dropout_p, seed, size, key_grid, query.device)
        dropout = [mask.queries, mask.keys, mask.threshold, mask.scale]
    constants = dict(
        _blocks(query.shape[-1], query.dtype, key_grid[1]),
        POSITION=position,
        DROPOUT=seed is not None,
        # Tensor cores would round float32 to 10 bits.
        PRECISION='ieee',
    )
    return dropout, constants


_INPUTS = (
    'Tensor query, Tensor key, Tensor value, Tensor content_scale, Tensor? row_table, '
    'Tensor? column_table, int[] key_grid, float dropout_p, Tensor? seed'
)


@torch.library.custom_op(
    'mmgcnl::triton_attention',
    mutates_args=(),
    schema=f'({_INPUTS}) -> (Tensor out, Tensor lse)',
)
def forward_operator(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    content_scale: Tensor,
    row_table: Tensor | None,
    column_table: Tensor | None,
    key_grid: list[int],
    dropout_p: float,
    seed: Tensor | None,
) -> tuple[Tensor, Tensor]:
    # The backward pass subtracts two sums that may be all but equal: one is of this.
    out = value.new_empty(query.shape, dtype=torch.float32)
    lse = query.new_empty(query.shape[:3], dtype=torch.float32)
    if out.numel() == 0:
        return out, lse
    position = row_table is not None
    dropout, constants = _common(query, key_grid, position, dropout_p, seed)
    inputs = _contiguous(query, key, value, row_table, column_table, content_scale)
    num_queries = query.shape[2]
    launch = (-(-num_queries // constants['BLOCK_M']), lse[..., 0].numel())
    kernels().forward_kernel[launch](
        *inputs, out, lse, *dropout, num_queries, *key_grid, **constants
    )
    return out, lse


def _contiguous(query: Tensor, *others: Tensor | None) -> list[Tensor]:
    # What is not there is not looked at, but a kernel needs some pointer.
    return [
        (query if tensor is None else tensor).contiguous() for tensor in (query, *others)
    ]


@forward_operator.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    lse = query.new_empty(query.shape[:3], dtype=torch.float32)
    return value.new_empty(query.shape, dtype=torch.float32), lse


@torch.library.custom_op(
    'mmgcnl::triton_attention_backward',
    mutates_args=(),
    schema=f'(Tensor grad, Tensor out, Tensor lse, {_INPUTS}) -> Tensor[]',
)
def backward_operator(
    grad: Tensor,
    out: Tensor,
    lse: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    content_scale: Tensor,
    row_table: Tensor | None,
    column_table: Tensor | None,
    key_grid: list[int],
    dropout_p: float,
    seed: Tensor | None,
) -> list[Tensor]:
    """The gradients of query, key, value and, where given, of the tables."""
    d_query, d_key, d_value = (t.new_empty(t.shape) for t in (query, key, value))
    position = row_table is not None and column_table is not None
    # The kernel adds to the row table's: a query meets its entries once a stretch of keys.
    tables = [t.new_zeros(t.shape) for t in (row_table, column_table) if t is not None]
    if grad.numel() == 0:
        return [d_query, d_key.zero_(), d_value.zero_(), *tables]
    grad = grad.to(value.dtype).contiguous()
    delta = (grad.float() * out).sum(-1)
    dropout, constants = _common(query, key_grid, position, dropout_p, seed)
    inputs = _contiguous(query, key, value, row_table, column_table, content_scale)
    inputs += [grad, lse, delta]
    num_queries, heads = query.shape[2], lse[..., 0].numel()
    sizes = [num_queries, *key_grid]
    kernels().query_gradient_kernel[(-(-num_queries // constants['BLOCK_M']), heads)](
        *inputs, *dropout, d_query, *(tables or (query, query)), *sizes, **constants
    )
    stretches = -(-key_grid[1] // constants['BLOCK_N'])
    kernels().key_gradient_kernel[(key_grid[0] * stretches, heads)](
        *inputs, *dropout, d_key, d_value, *sizes, **constants
    )
    return [d_query, d_key, d_value, *tables]


@backward_operator.register_fake
def _(grad: Tensor, out: Tensor, lse: Tensor, *inputs: Any) -> list[Tensor]:
    query, key, value, _, *tables = inputs[:6]
    return [t.new_empty(t.shape) for t in (query, key, value, *tables) if t is not None]


def _setup_context(
    ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]
) -> None:
    *tensors, ctx.key_grid, ctx.dropout_p, seed = inputs
    ctx.save_for_backward(*output, *tensors, seed)
    ctx.mark_non_differentiable(output[1])


def _gradients(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    *tensors, seed = ctx.saved_tensors
    grads = backward_operator(grad, *tensors, ctx.key_grid, ctx.dropout_p, seed)
    tables = grads[3:] or (None, None)
    return (*grads[:3], None, *tables, None, None, None)


forward_operator.register_autograd(_gradients, setup_context=_setup_context)
