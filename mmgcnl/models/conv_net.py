"""A backbone small enough to see nothing but a pixel's neighbourhood."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmcv.cnn import ConvModule
from mmengine.model import BaseModule, Sequential
from mmengine.registry import MODELS
from torch import Tensor


@MODELS.register_module()
class ConvNet(BaseModule):
    """3x3 convolutions of stride 2, for the probe.

    Two of them see 7 x 7 pixels, so that whatever depends on something further away is
    left to what follows.

    Args:
        channels (Sequence[int]): Output channels of each. Default: (24, 32).
        norm_cfg (dict): Norm after each. Default: BN.
        init_cfg (dict or list[dict], optional): Default: None.
    """

    def __init__(
        self,
        channels: Sequence[int] = (24, 32),
        norm_cfg: dict = dict(type='BN'),
        init_cfg: Any = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        widths = [3, *channels]
        self.layers = Sequential(
            *(
                # Zeros around the map would tell how far away its border is.
                ConvModule(a, b, 3, 2, 1, norm_cfg=norm_cfg, padding_mode='reflect')
                for a, b in zip(widths, channels)
            )
        )

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """(B, 3, H, W) to one map, its sides halved by each convolution."""
        return (self.layers(x),)
