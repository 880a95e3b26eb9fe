"""The attention function, and the choice of its implementation."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from .blockwise import blockwise_attention
from .inputs import AttentionInputs
from .reference import dense_attention
from .row_wise import is_exporting, row_wise_attention
from .triton import triton_attention, why_unsupported

IMPLEMENTATIONS: dict[str, Callable[..., Tensor]] = {
    'dense': dense_attention,
    'blockwise': blockwise_attention,
    'triton': triton_attention,
    'row_wise': row_wise_attention,
}
#: The environment variable that overrides every config.
IMPLEMENTATION_VARIABLE = 'MMGCNL_ATTENTION'
# Up to this many weights (B * n * N * M), use dense attention.
_DENSE_MAX_WEIGHTS = 2**20
# Where one head of one image has few weights (N * M), the blockwise loop over the heads
# costs more than it saves: use dense attention up to a larger total.
_SMALL_HEAD_WEIGHTS = 2**15
_DENSE_MAX_WEIGHTS_OF_SMALL_HEADS = 2**23


def attention(
    inputs: AttentionInputs,
    value: Tensor,
    dropout_p: float = 0.0,
    implementation: str | None = None,
) -> Tensor:
    """The average of the values, weighted by the softmax of the logits over the keys.

    Args:
        inputs: Query, key and position, which make the logits.
        value: (B, n, h, w, d).
        dropout_p: Probability with which a weight is zeroed. The remaining weights are
            scaled up to compensate.
        implementation: A key of :data:`IMPLEMENTATIONS`; None to choose automatically.

    Returns:
        (B, n, H, W, d) in ``value``'s dtype.

    Raises:
        ValueError: As :func:`choose_implementation`.
    """
    # Drawn from the default generator of the device: seeding the training fixes it,
    # activation checkpointing, which restores that generator, draws the same seed again,
    # and a GPU neither waits for the host nor breaks the capture of a CUDA graph.
    seed = None
    if dropout_p > 0:
        seed = torch.randint(2**62, (), device=inputs.query.device)
    name = choose_implementation(inputs, implementation, dropout_p)
    return IMPLEMENTATIONS[name](inputs, value, dropout_p, seed)


def choose_implementation(
    inputs: AttentionInputs, implementation: str | None = None, dropout_p: float = 0.0
) -> str:
    """The key of :data:`IMPLEMENTATIONS` that :func:`attention` would use.

    Args:
        inputs: Query, key and position.
        implementation: The requested implementation. The environment variable
            MMGCNL_ATTENTION overrides it. Without either: row_wise while torch.export is
            at work, dense while tracing, because these consist of standard operators; on
            a GPU the fused kernel, where it can run; otherwise blockwise, or dense where
            the weights take little memory.
        dropout_p: As for :func:`attention`: the kernels are validated with it, too.

    Raises:
        ValueError: The requested implementation does not exist.
    """
    requested = _from_environment() or implementation
    if requested is not None and requested not in IMPLEMENTATIONS:
        source = (
            IMPLEMENTATION_VARIABLE if requested != implementation else 'implementation'
        )
        raise ValueError(
            f'{source}={requested!r}: give one of {", ".join(map(repr, IMPLEMENTATIONS))}'
        )
    if requested not in (None, 'triton'):
        return requested
    if is_exporting():
        return 'row_wise'
    if torch.jit.is_tracing() or torch.onnx.is_in_onnx_export():
        return 'dense'
    if requested == 'triton' or inputs.query.device.type == 'cuda':
        reason = why_unsupported(inputs, dropout_p)
        if reason is None:
            return 'triton'
        _warn_once(
            f"implementation='triton' is not used: {reason}. 'blockwise' is used instead; "
            'it gives the same result but is slower'
        )
        return 'blockwise'
    if torch.compiler.is_compiling():
        return 'blockwise'  # a choice by size would recompile for every size
    head_weights = inputs.query.shape[2:4].numel() * inputs.key.shape[2:4].numel()
    limit = (
        _DENSE_MAX_WEIGHTS_OF_SMALL_HEADS
        if head_weights <= _SMALL_HEAD_WEIGHTS
        else _DENSE_MAX_WEIGHTS
    )
    num_weights = inputs.query.shape[:2].numel() * head_weights
    return 'dense' if num_weights <= limit else 'blockwise'


def _from_environment() -> str | None:
    return os.environ.get(IMPLEMENTATION_VARIABLE)


# torch 2.4 cannot compile the look-up. As torch.compiler.assume_constant_result would do,
# which imports the compiler.
_from_environment._dynamo_marked_constant = True  # type: ignore[attr-defined]
_warned: set[str] = set()


def _warn_once(message: str) -> None:
    if message not in _warned:
        _warned.add(message)
        warnings.warn(message, stacklevel=2)
