"""Attention as one fused kernel on NVIDIA GPUs, forward and backward.

Shape shorthand: B images, n heads, d channels of a head, (H, W) the query grid,
N = H * W, (h, w) the key grid, M = h * w.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ...precision import no_autocast
from ..dropout import KeepMask
from ..inputs import AttentionInputs, Position
from .tiles import padded_width, tile_options


def triton_attention(
    inputs: AttentionInputs,
    value: Tensor,
    dropout_p: float = 0.0,
    seed: Tensor | None = None,
) -> Tensor:
    """As :func:`.reference.dense_attention`, with no N x M tensor in memory.

    Second derivatives are not supported.
    """
    query, key, content_scale, position = inputs
    for name, tensor in (('key', key), ('value', value)):
        if tensor.dtype != query.dtype:
            raise TypeError(
                f'{name} has dtype {tensor.dtype}, but query has {query.dtype}: the fused '
                'kernels need the same; convert them, or use another implementation'
            )
    row_table = column_table = None
    if position is not None:
        row_table, column_table = kernel_tables(position)
        key_grid = list(key.shape[2:4])
    else:
        key_grid = [1, key.shape[2] * key.shape[3]]
    out, _ = forward_operator(
        query,
        key.flatten(2, 3),
        value.flatten(2, 3),
        content_scale.expand(*query.shape[:2], 1, 1, 1).flatten(),
        row_table,
        column_table,
        key_grid,
        dropout_p,
        seed,
    )
    return out.to(value.dtype)


def kernel_tables(position: Position) -> tuple[Tensor, Tensor]:
    """The tables times log2(e), as the kernels read them.

    They are in the order in which matrix products compute them, so that none is copied.
    The column table is padded with its last column: a weight that a kernel computes of the
    padding, and does not store, is then as large as one of a key, and does not overflow.

    Returns:
        The row table (B or 1, n, H, h, W) and the column table (B or 1, n, W, H, padded w).
    """
    dtype = torch.promote_types(position.rows.dtype, torch.float32)
    with no_autocast(position.query.device.type):
        query, rows, columns = (term.to(dtype) for term in position)
        rows, columns = (term * math.log2(math.e) for term in (rows, columns))
        padding = padded_width(columns.shape[1]) - columns.shape[1]
        last = columns[:, -1:].expand(-1, padding, -1, -1)
        columns = torch.cat([columns, last], dim=1)
        by_row = rows.permute(2, 0, 1, 3) @ query.transpose(3, 4)
        by_column = query.transpose(2, 3) @ columns.permute(2, 0, 3, 1)
    return by_row, by_column


def empty_output(
    like: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None
) -> Tensor:
    """What a kernel will write to. The self-check takes it from guarded memory."""
    return like.new_empty(shape, dtype=dtype)


@functools.cache
def load_kernels() -> ModuleType:
    """Import the kernels, which needs Triton."""
    from . import kernels

    return kernels


def _common(
    query: Tensor,
    key_grid: list[int],
    row_table: Tensor | None,
    dropout_p: float,
    seed: Tensor | None,
) -> tuple[list[Any], list[int], dict[str, Any]]:
    """What all kernels need: the arguments of dropout, the sizes, and the constants."""
    dropout = [query, query, 0, 1.0]  # never read
    if seed is not None:
        mask = KeepMask(dropout_p, seed, query.shape[:4], key_grid, query.device)
        dropout = [mask.queries, mask.keys, mask.threshold, mask.scale]
    sizes = [*query.shape[2:4], *key_grid, padded_width(key_grid[1])]
    sizes.append(1 if row_table is None else row_table.shape[:2].numel())
    constants = dict(
        d=query.shape[-1],
        POSITION=row_table is not None,
        DROPOUT=seed is not None,
        # TF32 would round float32 to 10 bits.
        PRECISION='ieee',
    )
    return dropout, sizes, constants


def _capability(device: torch.device) -> tuple[int, int] | None:
    """The compute capability of a GPU, as (8, 0)."""
    if device.type != 'cuda':
        return None
    return torch.cuda.get_device_capability(device)


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
    """The attention's output, and for each query the log of the sum of exponentials."""
    # In float32, because the backward pass subtracts nearly equal numbers, one of which
    # is computed from it.
    out = empty_output(value, query.shape, torch.float32)
    lse = empty_output(query, query.shape[:4], torch.float32)
    if out.numel() == 0 or key.numel() == 0:
        return out.zero_(), lse.zero_()
    dropout, sizes, constants = _common(query, key_grid, row_table, dropout_p, seed)
    constants |= tile_options(
        query.shape[-1], query.dtype, key_grid, 'forward', _capability(query.device)
    )
    inputs = _contiguous(query, key, value, row_table, column_table, content_scale)
    tiles = -(-query.shape[2:4].numel() // constants['BLOCK_M'])
    launch = (tiles, query.shape[:2].numel())
    # Triton launches on the current device, which need not be that of the tensors.
    with torch.cuda.device_of(query):
        load_kernels().forward_kernel[launch](
            *inputs, out, lse, *dropout, *sizes, **constants
        )
    return out, lse


def _contiguous(query: Tensor, *others: Tensor | None) -> list[Tensor]:
    # Absent tensors are never read, but the kernel needs a valid pointer.
    return [
        (query if tensor is None else tensor).contiguous() for tensor in (query, *others)
    ]


@forward_operator.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    lse = query.new_empty(query.shape[:4], dtype=torch.float32)
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
    d_query, d_key, d_value = (empty_output(t, t.shape) for t in (query, key, value))
    # Tables of one image are those of all images; every image has its own gradient.
    tables = [
        empty_output(t, (query.shape[0], *t.shape[1:]))
        for t in (row_table, column_table)
        if t is not None
    ]
    if grad.numel() == 0 or key.numel() == 0:
        zeros = [t.zero_() for t in (d_query, d_key, d_value)]
        return [
            *zeros,
            *(torch.zeros_like(t) for t in (row_table, column_table) if t is not None),
        ]
    grad = grad.to(value.dtype).contiguous()
    dropout, sizes, constants = _common(query, key_grid, row_table, dropout_p, seed)
    # FlashAttention's D, as the kernels add it: before they apply dropout's scale.
    minus_D = (grad.float() * out).sum(-1) / -dropout[-1]
    inputs = _contiguous(query, key, value, row_table, column_table, content_scale)
    inputs += [grad, lse, minus_D]
    heads = query.shape[:2].numel()
    capability = _capability(query.device)
    height, width = key_grid

    def options_of(kernel: str) -> dict[str, Any]:
        return tile_options(query.shape[-1], query.dtype, key_grid, kernel, capability)

    options = options_of('query_gradient')
    tiles = -(-query.shape[2:4].numel() // options['BLOCK_M'])
    if tables:
        # No kernel fills the padding that is beyond the last tile.
        n = options['BLOCK_N']
        tables[1][..., width if options['TAIL'] else -(-width // n) * n :] = 0
    with torch.cuda.device_of(query):
        load_kernels().query_gradient_kernel[(tiles, heads)](
            *inputs, *dropout, d_query, *(tables or (query, query)), *sizes,
            **constants, **options,
        )  # fmt: skip
        options = options_of('key_gradient')
        n, tail = options['BLOCK_N'], options['TAIL']
        whole = width // n * n if tail else width
        load_kernels().key_gradient_kernel[(height * -(-whole // n), heads)](
            *inputs, *dropout, d_key, d_value, *sizes, DOWN=False, **constants, **options
        )
        if tail:
            options = options_of('key_gradient_tail')
            load_kernels().key_gradient_kernel[((width - whole) * -(-height // n), heads)](
                *inputs, *dropout, d_key, d_value, *sizes, DOWN=True, **constants, **options
            )
    if row_table is not None and row_table.shape[0] < query.shape[0]:
        tables = [table.sum(0, keepdim=True) for table in tables]
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
