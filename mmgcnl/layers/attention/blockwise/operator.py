"""Attention on any device, in memory proportional to the number of positions.

The forward and the backward pass are custom operators, so that torch.compile calls them as
they are instead of unrolling their loops. :mod:`.passes` has the mathematics, :mod:`.tiles`
the division of the work, :mod:`.threads` the loop over the heads.

Shape shorthand: B images, n heads, d channels of a head, (H, W) the query grid, (h, w)
the key grid.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..dropout import KeepMask
from ..inputs import AttentionInputs
from .head_group import HeadGroup, Scratch, compute_dtype
from .passes import backward_heads, forward_heads
from .threads import map_groups
from .tiles import divide


def blockwise_attention(
    inputs: AttentionInputs,
    value: Tensor,
    dropout_p: float = 0.0,
    seed: Tensor | None = None,
) -> Tensor:
    """As :func:`.reference.dense_attention`, in memory that does not grow with N x M.

    It computes in float32 at least, whatever the precision of the input. Second
    derivatives are not supported.
    """
    query, key, content_scale, position = inputs
    content_scale = content_scale.expand(*query.shape[:2], 1, 1, 1)
    position_query, rows, columns = position or (None, None, None)
    if position_query is not None:
        position_query = position_query.expand(query.shape)
    tensors = query, key, value, content_scale, position_query, rows, columns
    out, _ = forward_operator(*tensors, dropout_p, seed)
    return out.to(value.dtype)


_INPUTS = (
    'Tensor query, Tensor key, Tensor value, Tensor content_scale, '
    'Tensor? position_query, Tensor? rows, Tensor? columns, float dropout_p, Tensor? seed'
)


@torch.library.custom_op(
    'mmgcnl::blockwise_attention',
    mutates_args=(),
    schema=f'({_INPUTS}) -> (Tensor out, Tensor lse)',
)
def forward_operator(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    content_scale: Tensor,
    position_query: Tensor | None,
    rows: Tensor | None,
    columns: Tensor | None,
    dropout_p: float,
    seed: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The output and lse, for each query log2 of the sum of exp(logit)."""
    results = _empty_results(query)
    if query.numel() == 0:
        return results
    tensors = query, key, value, content_scale, position_query, rows, columns
    tiling = divide(query.shape[:4], key.shape[2:4], query.device.type)
    mask = _keep_mask(query, key, dropout_p, seed)

    def compute(index: tuple[slice, slice], scratch: Scratch) -> None:
        of_group = tuple(result[index] for result in results)
        forward_heads(HeadGroup(index, *tensors), tiling, scratch, of_group)

    def make_scratch() -> Scratch:
        return Scratch(query, tiling, mask, backward=False)

    map_groups(compute, make_scratch, tiling, query.device.type)
    return results


def _empty_results(query: Tensor) -> tuple[Tensor, Tensor]:
    out = query.new_empty(query.shape, dtype=compute_dtype(query))
    return out, torch.empty_like(out[..., :1])


def _keep_mask(
    query: Tensor, key: Tensor, dropout_p: float, seed: Tensor | None
) -> KeepMask | None:
    if seed is None:
        return None
    return KeepMask(dropout_p, seed, query.shape[:4], key.shape[2:4], query.device)


@forward_operator.register_fake
def _(query: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    return _empty_results(query)


@torch.library.custom_op(
    'mmgcnl::blockwise_attention_backward',
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
    position_query: Tensor | None,
    rows: Tensor | None,
    columns: Tensor | None,
    dropout_p: float,
    seed: Tensor | None,
) -> list[Tensor]:
    """The gradients of query, key, value and, with position, of its query and codes."""
    per_image = [t for t in (query, key, value, position_query) if t is not None]
    grads = [t.new_zeros(t.shape) for t in per_image]
    # All images share the codes: their gradients are summed over the images.
    codes = [t for t in (rows, columns) if t is not None]
    d_codes = [t.new_zeros(t.shape, dtype=lse.dtype) for t in codes]
    if grad.numel() > 0:
        tensors = query, key, value, content_scale, position_query, rows, columns
        tiling = divide(query.shape[:4], key.shape[2:4], query.device.type)
        mask = _keep_mask(query, key, dropout_p, seed)

        def compute(index: tuple[slice, slice], scratch: Scratch) -> list[Tensor]:
            heads = HeadGroup(index, *tensors)
            saved = [t[index].to(lse.dtype) for t in (grad, out, lse)]
            of_group = [t[index] for t in grads]
            return backward_heads(heads, tiling, scratch, saved, of_group)

        def make_scratch() -> Scratch:
            return Scratch(query, tiling, mask, backward=True)

        of_groups = map_groups(compute, make_scratch, tiling, query.device.type)
        for (_, of_heads), of_group in zip(tiling.groups, of_groups):
            for d_code, part in zip(d_codes, of_group):
                d_code[:, :, of_heads] += part.permute(1, 2, 0, 3)
    return [*grads, *(d.to(t.dtype) for d, t in zip(d_codes, codes))]


@backward_operator.register_fake
def _(grad: Tensor, out: Tensor, lse: Tensor, *inputs: Any) -> list[Tensor]:
    query, key, value, _, *position = inputs[:7]
    return [t.new_empty(t.shape) for t in (query, key, value, *position) if t is not None]


def _setup_context(
    ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]
) -> None:
    *tensors, ctx.dropout_p, seed = inputs
    ctx.save_for_backward(*output, *tensors, seed)
    ctx.mark_non_differentiable(output[1])


def _gradients(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    *tensors, seed = ctx.saved_tensors
    grads = backward_operator(grad, *tensors, ctx.dropout_p, seed)
    position = grads[3:] or (None, None, None)
    return (*grads[:3], None, *position, None, None)


forward_operator.register_autograd(_gradients, setup_context=_setup_context)
