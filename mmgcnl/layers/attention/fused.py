"""Attention as one fused kernel on NVIDIA GPUs, forward and backward.

Shape shorthand: B images, n heads, d channels of a head, (H, W) the query grid,
N = H * W, (h, w) the key grid, M = h * w.
"""

from __future__ import annotations

import functools
import math
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .dropout import KeepMask
from .inputs import AttentionInputs, Position

#: Keys of the widest tile.
MAX_TILE = 64


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
    for name, tensor in (('key', key), ('value', value)):
        if tensor.dtype != query.dtype:
            raise TypeError(
                f'{name} has dtype {tensor.dtype}, but query has {query.dtype}: the fused '
                'kernels need the same; convert them, or use another implementation'
            )
    row_table = column_table = None
    if position is not None:
        row_table, column_table = kernel_tables(position, query.shape[0])
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


def padded_width(width: int) -> int:
    """Entries of a query in the column table that the kernels read.

    It is a multiple of the widest tile: rows start at aligned addresses, and no load needs
    a mask.
    """
    return -(-width // MAX_TILE) * MAX_TILE


def kernel_tables(position: Position, batch: int) -> tuple[Tensor, Tensor]:
    """The tables times log2(e), as the kernels read them.

    They are in the order in which matrix products compute them, so that none is copied.

    Returns:
        The row table (B, n, H, h, W), and the column table (B, n, W, H, padded w).
    """
    dtype = torch.promote_types(position.rows.dtype, torch.float32)
    with torch.autocast(position.query.device.type, enabled=False):
        query, rows, columns = (term.to(dtype) for term in position)
        rows, columns = (term * math.log2(math.e) for term in (rows, columns))
        width = columns.shape[1]
        columns = F.pad(columns, (0, 0, 0, 0, 0, padded_width(width) - width))
        by_row = rows.permute(2, 0, 1, 3) @ query.transpose(3, 4)
        by_column = query.transpose(2, 3) @ columns.permute(2, 0, 3, 1)
    return by_row.expand(batch, -1, -1, -1, -1), by_column.expand(batch, -1, -1, -1, -1)


@functools.cache
def kernels() -> ModuleType:
    from . import triton_kernels

    return triton_kernels


def tile_options(
    dims: int, dtype: torch.dtype, width: int, kernel: str = 'forward'
) -> dict[str, int]:
    """The sizes of the tiles, and how a kernel is compiled.

    A tile must fit the shared memory of a core (99 KiB on compute capability 8.6, 8.9 and
    12.0) and its registers.

    Args:
        dims: d.
        dtype: Of query, key and value.
        width: Width of the key grid.
        kernel: 'forward', 'query_gradient' or 'key_gradient'.
    """
    block_d = max(16, 1 << (dims - 1).bit_length())
    row_bytes = block_d * dtype.itemsize
    if dtype == torch.float32:
        # Its products run on the scalar units; larger tiles spill registers.
        block_m = 32 if row_bytes <= 512 else 16
    else:
        block_m = 64 if row_bytes <= 256 else 32 if row_bytes <= 512 else 16
    # The widest tile of keys that pads a row by little more than the narrowest does.
    padded = {n: -(-width // n) * n for n in (16, 32, 64) if n <= block_m}
    block_n = max(n for n in padded if padded[n] <= 1.35 * min(padded.values()))
    # More warps where a tile would spill registers.
    half, num_warps = dtype.itemsize == 2, 4
    if half and row_bytes == 256 and kernel == 'query_gradient':
        num_warps = 8
    if row_bytes in (128, 256) and kernel == 'key_gradient' and (half or row_bytes == 256):
        num_warps = 8
    return dict(
        BLOCK_D=block_d,
        BLOCK_M=block_m,
        BLOCK_N=block_n,
        num_warps=num_warps,
        num_stages=2 if row_bytes <= 256 else 1,
    )


def _common(
    query: Tensor,
    key_grid: list[int],
    position: bool,
    dropout_p: float,
    seed: Tensor | None,
) -> tuple[list[Any], list[int], dict[str, Any]]:
    """What all kernels need: the arguments of dropout, the sizes, and the constants."""
    dropout = [query, query, 0, 1.0]  # never read
    if seed is not None:
        mask = KeepMask(dropout_p, seed, query.shape[:4], key_grid, query.device)
        dropout = [mask.queries, mask.keys, mask.threshold, mask.scale]
    sizes = [*query.shape[2:4], *key_grid, padded_width(key_grid[1])]
    constants = dict(
        tile_options(query.shape[-1], query.dtype, key_grid[1]),
        d=query.shape[-1],
        POSITION=position,
        DROPOUT=seed is not None,
        # TF32 would round float32 to 10 bits.
        PRECISION='ieee',
    )
    return dropout, sizes, constants


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
    # In float32, because the backward pass subtracts nearly equal numbers, one of which
    # is computed from it.
    out = value.new_empty(query.shape, dtype=torch.float32)
    lse = query.new_empty(query.shape[:4], dtype=torch.float32)
    if out.numel() == 0:
        return out, lse
    position = row_table is not None
    dropout, sizes, constants = _common(query, key_grid, position, dropout_p, seed)
    inputs = _contiguous(query, key, value, row_table, column_table, content_scale)
    tiles = -(-query.shape[2:4].numel() // constants['BLOCK_M'])
    launch = (tiles, query.shape[:2].numel())
    # Triton launches on the current device, which need not be that of the tensors.
    with torch.cuda.device_of(query):
        kernels().forward_kernel[launch](*inputs, out, lse, *dropout, *sizes, **constants)
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
    d_query, d_key, d_value = (t.new_empty(t.shape) for t in (query, key, value))
    position = row_table is not None and column_table is not None
    tables = [t.new_empty(t.shape) for t in (row_table, column_table) if t is not None]
    if grad.numel() == 0:
        return [d_query, d_key.zero_(), d_value.zero_(), *(t.zero_() for t in tables)]
    grad = grad.to(value.dtype).contiguous()
    delta = (grad.float() * out).sum(-1)
    dropout, sizes, constants = _common(query, key_grid, position, dropout_p, seed)
    inputs = _contiguous(query, key, value, row_table, column_table, content_scale)
    inputs += [grad, lse, delta]
    heads = query.shape[:2].numel()
    kind = query.shape[-1], query.dtype, key_grid[1]
    query_options = {**constants, **tile_options(*kind, 'query_gradient')}
    key_options = {**constants, **tile_options(*kind, 'key_gradient')}
    tiles = -(-query.shape[2:4].numel() // query_options['BLOCK_M'])
    key_tiles = key_grid[0] * -(-key_grid[1] // constants['BLOCK_N'])
    if position:
        # No kernel fills the padding that is beyond the last tile.
        tables[1][..., -(-key_grid[1] // constants['BLOCK_N']) * constants['BLOCK_N'] :] = 0
    with torch.cuda.device_of(query):
        kernels().query_gradient_kernel[(tiles, heads)](
            *inputs, *dropout, d_query, *(tables or (query, query)), *sizes, **query_options
        )
        kernels().key_gradient_kernel[(key_tiles, heads)](
            *inputs, *dropout, d_key, d_value, *sizes, **key_options
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
