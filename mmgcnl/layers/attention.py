"""Attention whose logits are content plus position, position being a row and a column part.

Shape shorthand: B images, n heads, N query positions, M = h * w key positions on a grid
of h rows and w columns, d channels of a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def attention_weights(
    query: Tensor,
    key: Tensor,
    row_bias: Tensor | None,
    column_bias: Tensor | None,
    content_scale: Tensor | float,
) -> Tensor:
    """Softmax over keys of ``content_scale * query . key + row_bias + column_bias``.

    The logits and the softmax are computed in float32 at least: half precision can hold
    the operands but not their inner products.

    Args:
        query: (B, n, N, d).
        key: (B, n, M, d), the key grid in row-major order.
        row_bias: (B or 1, n, N, h), what each query adds to every key of a grid row;
            or None for no position.
        column_bias: (B or 1, n, N, w), likewise for the grid's columns; None together
            with ``row_bias``.
        content_scale: A number, or a tensor broadcastable to (B, n, N, M).

    Returns:
        (B, n, N, M), each row summing to one, in float32 (float64 for float64 input).
    """
    dtype = torch.promote_types(query.dtype, torch.float32)
    with torch.autocast(query.device.type, enabled=False):
        logits = query.to(dtype) @ key.to(dtype).transpose(-2, -1) * content_scale
        if row_bias is not None and column_bias is not None:
            grid = (row_bias.shape[-1], column_bias.shape[-1])
            bias = row_bias.unsqueeze(-1) + column_bias.unsqueeze(-2)
            logits = (logits.unflatten(-1, grid) + bias).flatten(-2)
        return logits.softmax(dim=-1)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    row_bias: Tensor | None = None,
    column_bias: Tensor | None = None,
    content_scale: Tensor | float = 1.0,
    dropout_p: float = 0.0,
) -> Tensor:
    """The values averaged with :func:`attention_weights`: the dense reference.

    Args:
        query, key, row_bias, column_bias, content_scale: As in
            :func:`attention_weights`.
        value: (B, n, M, d).
        dropout_p: Probability with which a weight is zeroed (the others are divided by
            ``1 - dropout_p``).

    Returns:
        (B, n, N, d) in ``value``'s dtype.
    """
    weights = attention_weights(query, key, row_bias, column_bias, content_scale)
    return F.dropout(weights, dropout_p).to(value.dtype) @ value
