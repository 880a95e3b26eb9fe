"""Whether the fused kernels may be used: they are compared with the reference first."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from . import fused
from .dense import dense_attention
from .inputs import AttentionInputs, Position

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_MAX_HEAD_DIMS = 512


def why_unsupported(inputs: AttentionInputs) -> str | None:
    """Why :func:`.fused.triton_attention` cannot compute this, or None.

    The first time that a kind of input is met, the kernels are compiled and their output
    and gradients compared with the reference on a small input of that kind.
    """
    query = inputs.query
    if query.dtype not in _DTYPES:
        return f'there is none for {query.dtype}'
    if query.shape[-1] > _MAX_HEAD_DIMS:
        return f'a head has {query.shape[-1]} channels, more than {_MAX_HEAD_DIMS}'
    return validate_kernels(
        str(query.device), query.dtype, query.shape[-1], inputs.position is not None
    )


@functools.cache
def validate_kernels(
    device: str, dtype: torch.dtype, dims: int, position: bool
) -> str | None:
    try:
        fused.kernels()
    except ImportError as error:
        return f'Triton does not import ({error})'
    kind = f'{dtype} with heads of {dims} channels'
    try:
        with torch.random.fork_rng(), torch.enable_grad():
            off = _largest_error(torch.device(device), dtype, dims, position)
    except Exception as error:  # the compiler's and the driver's, which are many
        return f'its kernels fail for {kind} ({type(error).__name__}: {error})'
    limit = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}[dtype]
    if not off <= limit:
        return f'its kernels are off by {off:.1e} for {kind}'
    return None


# What torch.compiler.assume_constant_result does, which would import the compiler.
validate_kernels._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _largest_error(
    device: torch.device, dtype: torch.dtype, dims: int, position: bool
) -> float:
    """Of output and gradients relative to the reference, on a grid of no round size."""
    torch.manual_seed(0)
    height, width = 3, 67

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, device=device).to(dtype).requires_grad_()

    def code(size: int) -> Tensor:
        return (torch.randn(size, size, 1, dims, device=device) / dims).requires_grad_()

    query, key, value = (random(1, 1, height, width, dims) for _ in range(3))
    scale = torch.full((1, 1, 1, 1, 1), dims**-0.5, device=device)
    leaves = [query, key, value]
    part = Position(query, code(height), code(width)) if position else None
    leaves += part[1:] if part else []
    weight = torch.randn(query.shape, device=device)
    results = []
    for function, precision in (
        (dense_attention, torch.float64),
        (fused.triton_attention, dtype),
    ):
        inputs = AttentionInputs(query, key, scale, part)
        if precision == torch.float64:
            inputs = AttentionInputs(query.double(), key.double(), scale.double(), None)
            if part:
                inputs = inputs._replace(position=Position(*(t.double() for t in part)))
        out = function(inputs, value.to(precision))
        grads = torch.autograd.grad((out.float() * weight).sum(), leaves)
        results.append([out, *grads])
    pairs = ((a.double(), b.double()) for a, b in zip(*results))
    return max(float((b - a).norm() / a.norm()) for a, b in pairs)
