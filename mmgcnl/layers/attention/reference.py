"""The reference: the formula as written, with all N x M weights in memory."""

from __future__ import annotations

import torch
from torch import Tensor

from ..precision import no_autocast
from .dropout import KeepMask
from .inputs import AttentionInputs, Position


def attention_weights(inputs: AttentionInputs) -> Tensor:
    """The softmax of the logits over the keys.

    Logits and softmax are computed in float32 at least: half precision can hold the
    operands but not their inner products.

    Returns:
        (B, n, N, M), each row summing to one, in float32 (float64 for float64 input).
    """
    query, key, content_scale, position = inputs
    dtype = torch.promote_types(query.dtype, torch.float32)
    return weights_of_scaled(query.to(dtype) * content_scale, key.to(dtype), position)


def weights_of_scaled(query: Tensor, key: Tensor, position: Position | None) -> Tensor:
    """As :func:`attention_weights`, with the content's scale already in the query."""
    with no_autocast(query.device.type):
        logits = query.flatten(2, 3) @ key.flatten(2, 3).transpose(2, 3)
        if position is not None:
            rows, columns = (table.flatten(2, 3) for table in position.tables())
            logits = logits + (rows.unsqueeze(-1) + columns.unsqueeze(-2)).flatten(-2)
        return logits.softmax(dim=-1)


def dense_attention(
    inputs: AttentionInputs,
    value: Tensor,
    dropout_p: float = 0.0,
    seed: Tensor | None = None,
) -> Tensor:
    """The average of the values, weighted by :func:`attention_weights`.

    Args:
        inputs: Query, key and position.
        value: (B, n, h, w, d).
        dropout_p: Probability with which a weight is zeroed. The remaining weights are
            scaled up to compensate.
        seed: Determines which weights are zeroed, see :class:`.dropout.KeepMask`. None
            for no dropout.

    Returns:
        (B, n, H, W, d) in ``value``'s dtype.
    """
    weights = attention_weights(inputs)
    if seed is not None:
        size = inputs.query.shape[:4]
        mask = KeepMask(dropout_p, seed, size, inputs.key.shape[2:4], weights.device)
        keep = mask(mask.queries.flatten(2), mask.keys.flatten(2))
        weights = weights * keep * mask.scale
    out = weights.to(value.dtype) @ value.flatten(2, 3)
    return out.unflatten(2, inputs.query.shape[2:4])
