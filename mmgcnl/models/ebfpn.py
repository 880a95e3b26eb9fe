"""EBFPN: a balanced feature pyramid, refined by any registered block.

Shape shorthand: B images, C channels, level i of the pyramid (B, C, H_i, W_i).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmgcnl.layers.arguments import check_whole_number

from .checks import check_layer_cfg, is_index


@MODELS.register_module()
class EBFPN(BaseModule):
    """Balanced feature pyramid (Libra R-CNN) refined by GCNonLocal2d.

    All levels are resized to one size and averaged, the mean is refined, and the result is
    resized and added to every level. The neck follows an FPN::

        neck=[dict(type='FPN', ...), dict(type='EBFPN', in_channels=256, num_levels=5)]

    With ``refine=dict(type='NonLocal2d', reduction=1, use_scale=False)`` it computes what
    mmdet's BFP computes.

    Args:
        in_channels: Channels of every level.
        num_levels: Number of levels.
        refine_level: The level whose size the mean is refined at, from 0.
        refine: Config of the block that refines the mean; ``in_channels`` is the neck's
            unless given. None: no refinement. Default: the paper's block with a key grid
            of stride 2.
        init_cfg: See mmengine's BaseModule. The neck itself has no weights; the default
            keeps the block's own initialisation, unlike the Xavier default of BFP.

    Raises:
        TypeError: ``refine`` is not a dict.
        ValueError: An option is outside of its range.
    """

    def __init__(
        self,
        in_channels: int,
        num_levels: int,
        refine_level: int = 2,
        refine: dict | None = dict(
            type='GCNonLocal2d', reduction=1, num_heads=8, kv_stride=2
        ),
        init_cfg: Any = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        check_whole_number('in_channels', in_channels)
        check_whole_number('num_levels', num_levels)
        check_layer_cfg('refine', refine)
        if not is_index(refine_level) or not 0 <= refine_level < num_levels:
            raise ValueError(
                f'refine_level={refine_level!r}: give one of the num_levels={num_levels} '
                f'levels, 0 to {num_levels - 1}'
            )
        self.in_channels = in_channels
        self.num_levels = num_levels
        self.refine_level = refine_level
        self.refine = (
            None if refine is None else MODELS.build({'in_channels': in_channels, **refine})
        )

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Refine a pyramid.

        Args:
            inputs: ``num_levels`` maps (B, C, H_i, W_i), finest first.

        Returns:
            As many maps of the same sizes.

        Raises:
            ValueError: The number of maps, or the channels or batch size of one, are
                wrong.
        """
        if len(inputs) != self.num_levels:
            raise ValueError(
                f'EBFPN got {len(inputs)} levels but num_levels={self.num_levels}: '
                'set num_levels to the number of outputs of the neck before it'
            )
        for i, level in enumerate(inputs):
            expected = (inputs[0].shape[0], self.in_channels)
            if level.dim() != 4 or level.shape[:2] != expected:
                raise ValueError(
                    f'level {i} has shape {tuple(level.shape)}: expected (B, '
                    f'{self.in_channels}, H, W), as in_channels={self.in_channels}, with '
                    'the same B at every level'
                )
        size = inputs[self.refine_level].shape[2:]
        total = _resize(inputs[0], size, shrink=self.refine_level > 0)
        for i, level in enumerate(inputs[1:], 1):  # no level is kept in its new size
            total = total + _resize(level, size, shrink=i < self.refine_level)
        mean = total / self.num_levels
        if self.refine is not None:
            mean = self.refine(mean)
        return tuple(
            _add(_resize(mean, level.shape[2:], shrink=i >= self.refine_level), level)
            for i, level in enumerate(inputs)
        )


def _resize(x: Tensor, size: Sequence[int], shrink: bool) -> Tensor:
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


def _add(resized: Tensor, level: Tensor) -> Tensor:
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
