"""The reference: the formula as it stands, with all N x M weights in memory."""

from __future__ import annotations

import torch
from torch import Tensor

from .dropout import KeepMask
from .logits import Logits


def attention_weights(logits: Logits) -> Tensor:
    """The softmax over keys of ``logits``.

    Logits and softmax are computed in float32 at least: half precision can hold the
    operands but not their inner products.

    Returns:
        (B, n, N, M), each row summing to one, in float32 (float64 for float64 input).
    """
    query, key, content_scale, position = logits
    dtype = torch.promote_types(query.dtype, torch.float32)
    with torch.autocast(query.device.type, enabled=False):
        content = query.flatten(2, 3).to(dtype) @ key.flatten(2, 3).to(dtype).mT
        values = content * content_scale.squeeze(-1)
        if position is not None:
            rows, columns = (table.flatten(2, 3) for table in position.tables())
            bias = rows.unsqueeze(-1) + columns.unsqueeze(-2)
            values = values + bias.flatten(-2)
        return values.softmax(dim=-1)


def dense_attention(
    logits: Logits, value: Tensor, dropout_p: float = 0.0, seed: Tensor | None = None
) -> Tensor:
    """The values averaged with :func:`attention_weights`.

    Args:
        logits: What makes the logits.
        value: (B, n, h, w, d).
        dropout_p: Probability with which a weight is zeroed; the others grow to make up.
        seed: Says which weights are zeroed, see :class:`.dropout.KeepMask`. None: none.

    Returns:
        (B, n, H, W, d) in ``value``'s dtype.
    """
    weights = attention_weights(logits)
    if seed is not None:
        size = logits.query.shape[:4]
        mask = KeepMask(dropout_p, seed, size, logits.key.shape[2:4], weights.device)
        keep = mask(mask.queries.flatten(2), mask.keys.flatten(2))
        weights = weights * keep * mask.scale
    out = weights.to(value.dtype) @ value.flatten(2, 3)
    return out.unflatten(2, logits.query.shape[2:4])
