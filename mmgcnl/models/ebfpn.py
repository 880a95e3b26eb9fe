"""EBFPN: balanced feature pyramid whose refinement is any registered block.

Shape shorthand: B images, C channels, level i of the pyramid (B, C, H_i, W_i).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor


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
        ValueError: ``refine_level`` is not one of the levels, or, when called, the number
            of inputs is not ``num_levels``.
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
        if not 0 <= refine_level < num_levels:
            raise ValueError(
                f'refine_level={refine_level}: give one of the num_levels={num_levels} '
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
    if shrink:
        return F.adaptive_max_pool2d(x, list(size))
    return F.interpolate(x, size=list(size), mode='nearest')
