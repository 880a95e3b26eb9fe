"""Which implementation computes an attention."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from .blockwise import blockwise_attention
from .dense import dense_attention
from .fused import reason_against, triton_attention
from .logits import Logits

IMPLEMENTATIONS: dict[str, Callable[..., Tensor]] = {
    'dense': dense_attention,
    'blockwise': blockwise_attention,
    'triton': triton_attention,
}
#: The environment variable that outdoes every config.
IMPLEMENTATION_VARIABLE = 'MMGCNL_ATTENTION'
# Attention weights of all heads and images that are no burden.
_FEW = 2**20
# As many are none either, where a head has so few that to go through the heads one by one
# takes longer than to compute with all of them.
_MORE, _FEW_OF_A_HEAD = 2**23, 2**15


def attention(
    logits: Logits,
    value: Tensor,
    dropout_p: float = 0.0,
    implementation: str | None = None,
) -> Tensor:
    """The values averaged with the softmax over keys of the logits.

    Args:
        logits: What makes the logits.
        value: (B, n, h, w, d).
        dropout_p: Probability with which a weight is zeroed; the others grow to make
            up for it.
        implementation: A key of :data:`IMPLEMENTATIONS`; None chooses one.

    Returns:
        (B, n, H, W, d) in ``value``'s dtype.

    Raises:
        ValueError: As :func:`choose_implementation`.
    """
    # Drawn from the default generator: the seed of a training fixes it, and
    # checkpointing, which restores that generator, draws it again.
    seed = torch.randint(2**62, ()) if dropout_p > 0 else None
    name = choose_implementation(logits, implementation)
    return IMPLEMENTATIONS[name](logits, value, dropout_p, seed)


def choose_implementation(logits: Logits, implementation: str | None = None) -> str:
    """The key of :data:`IMPLEMENTATIONS` that :func:`attention` would take.

    Args:
        logits: What makes the logits.
        implementation: What is asked for. The environment variable MMGCNL_ATTENTION
            outdoes it. Without either: while exporting or tracing, dense, which is made
            of standard operators; on a GPU the fused kernel, where it can run; else
            blockwise, or dense where that takes next to no memory.

    Raises:
        ValueError: There is no such implementation.
    """
    asked = os.environ.get(IMPLEMENTATION_VARIABLE) or implementation
    if asked is not None and asked not in IMPLEMENTATIONS:
        source = IMPLEMENTATION_VARIABLE if asked != implementation else 'implementation'
        raise ValueError(
            f'{source}={asked!r}: give one of {", ".join(map(repr, IMPLEMENTATIONS))}'
        )
    if asked in ('dense', 'blockwise'):
        return asked
    if _exporting():
        return 'dense'
    if asked == 'triton' or logits.query.device.type == 'cuda':
        reason = reason_against(logits)
        if reason is None:
            return 'triton'
        _warn_once(
            f'no fused attention: {reason}; the blockwise one is slower, but as exact'
        )
        return 'blockwise'
    if torch.compiler.is_compiling():
        return 'blockwise'  # to ask for the size would compile for it
    of_a_head = logits.query.shape[2:4].numel() * logits.key.shape[2:4].numel()
    few = _MORE if of_a_head <= _FEW_OF_A_HEAD else _FEW
    return 'dense' if logits.query.shape[:2].numel() * of_a_head <= few else 'blockwise'


def _exporting() -> bool:
    is_exporting = getattr(torch.compiler, 'is_exporting', lambda: False)  # torch 2.7
    return torch.jit.is_tracing() or torch.onnx.is_in_onnx_export() or is_exporting()


_warned: set[str] = set()


def _warn_once(message: str) -> None:
    if message not in _warned:
        _warned.add(message)
        warnings.warn(message, stacklevel=2)
