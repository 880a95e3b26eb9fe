"""How the levels of a pyramid are brought to one size, and back to their own.

Shape shorthand: B images, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def resize(x: Tensor, size: Sequence[int], shrink: bool) -> Tensor:
    """Resize ``x`` (B, C, H, W) by adaptive max pooling, or by nearest interpolation."""
    if _by_indices():
        # Sizes may be symbols here. Adaptive pooling takes numbers only, and ONNX's Resize
        # rounds differently from PyTorch. Indexing along each axis gives the same values.
        resize_axis = _max_of_windows if shrink else _nearest
        for axis in (2, 3):
            x = resize_axis(x, axis, size[axis - 2])
        return x
    if shrink:
        return _AdaptiveMaxPool.apply(x, list(size))
    return F.interpolate(x, size=list(size), mode='nearest')


def add_resized(resized: Tensor, level: Tensor) -> Tensor:
    """Their sum, in the memory of ``resized`` where nothing else needs that."""
    dtype = torch.promote_types(resized.dtype, level.dtype)
    # The gradient of the maximum of windows needs the maximum.
    if _by_indices() or dtype != resized.dtype:
        return resized + level
    return resized.add_(level)


def _by_indices() -> bool:
    """Whether maps are resized by indices."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


class _AdaptiveMaxPool(torch.autograd.Function):
    """F.adaptive_max_pool2d, whose gradient does not keep the input in memory.

    PyTorch's keeps it, but needs its shape only. In a detector that is a whole pyramid,
    which nothing else needs once this neck has run.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, size: list[int]) -> Tensor:
        pooled, indices = F.adaptive_max_pool2d(x, size, return_indices=True)
        ctx.save_for_backward(indices)
        ctx.shape = x.shape
        return pooled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (indices,) = ctx.saved_tensors
        if torch.are_deterministic_algorithms_enabled():
            # PyTorch's function raises an error on a GPU then.
            planes = grad.new_zeros(ctx.shape).flatten(0, 1).flatten(1)
            starts = torch.arange(len(planes), device=grad.device) * planes.shape[1]
            at = indices.flatten(0, 1).flatten(1) + starts[:, None]
            summed = planes.flatten().index_add_(0, at.flatten(), grad.flatten())
            return summed.view(ctx.shape), None
        of_shape = grad.new_empty(1).expand(ctx.shape)
        return torch.ops.aten.adaptive_max_pool2d_backward(grad, of_shape, indices), None


def _max_of_windows(x: Tensor, axis: int, size: int) -> Tensor:
    """Do what F.adaptive_max_pool2d does along one axis.

    Output i is the maximum of the inputs from ``floor(i * n / size)`` to below
    ``ceil((i + 1) * n / size)``. No window is longer than ``ceil(n / size) + 1``; shorter
    windows repeat their last element. The gradient of equal values is shared among them,
    where PyTorch gives it to one.
    """
    n = x.shape[axis]
    i = torch.arange(size, device=x.device)[:, None]
    offset = torch.arange((n + size - 1) // size + 1, device=x.device)
    last = ((i + 1) * n + size - 1) // size - 1
    index = torch.minimum(i * n // size + offset, last)
    windows = x.index_select(axis, index.flatten()).unflatten(axis, index.shape)
    return windows.amax(axis + 1)


def _nearest(x: Tensor, axis: int, size: int) -> Tensor:
    """Do what F.interpolate(mode='nearest') does along one axis.

    Output i is input ``floor(i * n / size)``. PyTorch computes the index in float32, so
    that it can be one less than the exact value; this function does the same.
    """
    n = x.shape[axis]
    i = torch.arange(size, device=x.device, dtype=torch.float32)
    number = i.new_ones(())
    scale = (number * n) / (number * size)
    return x.index_select(axis, (i * scale).long().clamp(max=n - 1))
