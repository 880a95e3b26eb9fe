"""EBFPN: balanced feature pyramid whose refinement is any registered block.

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

from .checks import check_layer_cfg, check_whole_number


@MODELS.register_module()
class EBFPN(BaseModule):
    """Balanced feature pyramid (Libra R-CNN) refined by GCNonLocal2d.

    All levels are brought to one size and averaged, the mean is refined, and the result is
    added to every level. It goes behind an FPN::

        neck=[dict(type='FPN', ...), dict(type='EBFPN', in_channels=256, num_levels=5)]

    With ``refine=dict(type='NonLocal2d', reduction=1, use_scale=False)`` it is mmdet's BFP.

    Args:
        in_channels (int): Channels of every level.
        num_levels (int): Number of levels.
        refine_level (int): The level at whose size the mean is refined. Default: 2.
        refine (dict, optional): Config of the block that refines the mean, ``in_channels``
            being the neck's where it has none. None: no refinement.
            Default: the paper's block with a key grid of stride 2.
        init_cfg (dict or list[dict], optional): Default: None. The neck itself has no
            weights; unlike BFP's Xavier this leaves a block's own start untouched.

    Raises:
        TypeError: ``refine`` is no dict.
        ValueError: An option is outside of what it allows; or, when called, the inputs are
            not ``num_levels`` maps of ``in_channels`` channels.
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
        if (
            isinstance(refine_level, bool)
            or not isinstance(refine_level, int)
            or not 0 <= refine_level < num_levels
        ):
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
        """``num_levels`` maps (B, C, H_i, W_i), finest first, to as many of their sizes."""
        if len(inputs) != self.num_levels:
            raise ValueError(
                f'EBFPN got {len(inputs)} levels but num_levels={self.num_levels}: '
                f'set num_levels to what the neck before it gives out'
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
        gathered = [
            _resize(level, size, shrink=i < self.refine_level)
            for i, level in enumerate(inputs)
        ]
        mean: Tensor = sum(gathered) / self.num_levels  # type: ignore[assignment]
        if self.refine is not None:
            mean = self.refine(mean)
        return tuple(
            level + _resize(mean, level.shape[2:], shrink=i >= self.refine_level)
            for i, level in enumerate(inputs)
        )


def _resize(x: Tensor, size: Sequence[int], shrink: bool) -> Tensor:
    """Adaptive max pooling or nearest interpolation of ``x`` to ``size``."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        # Where sizes are symbols: adaptive pooling only takes numbers, and ONNX's Resize
        # rounds otherwise than PyTorch. The same values by indices, axis by axis.
        resize_axis = _max_of_windows if shrink else _nearest
        for axis in (2, 3):
            x = resize_axis(x, axis, size[axis - 2])
        return x
    if shrink:
        return F.adaptive_max_pool2d(x, list(size))
    return F.interpolate(x, size=list(size), mode='nearest')


def _max_of_windows(x: Tensor, axis: int, size: int) -> Tensor:
    """F.adaptive_max_pool2d along one axis.

    Output i is the maximum of the inputs from ``floor(i * n / size)`` to below
    ``ceil((i + 1) * n / size)``. No window is longer than ``ceil(n / size) + 1``; a shorter
    one repeats its last element.
    """
    n = x.shape[axis]
    i = torch.arange(size, device=x.device)[:, None]
    offset = torch.arange((n + size - 1) // size + 1, device=x.device)
    last = ((i + 1) * n + size - 1) // size - 1
    index = torch.minimum(i * n // size + offset, last)
    windows = x.index_select(axis, index.flatten()).unflatten(axis, index.shape)
    return windows.amax(axis + 1)


def _nearest(x: Tensor, axis: int, size: int) -> Tensor:
    """F.interpolate(mode='nearest') along one axis: input ``floor(i * n / size)``.

    PyTorch computes that in float32, wherefore it can be one less than exact arithmetic's.
    """
    n = x.shape[axis]
    i = torch.arange(size, device=x.device, dtype=torch.float32)
    number = i.new_ones(())
    scale = (number * n) / (number * size)
    return x.index_select(axis, (i * scale).long().clamp(max=n - 1))
