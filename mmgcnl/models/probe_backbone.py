"""A backbone whose receptive field is a pixel's neighbourhood."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmcv.cnn import ConvModule
from mmengine.model import BaseModule, Sequential
from mmengine.registry import MODELS
from torch import Tensor


@MODELS.register_module()
class ProbeBackbone(BaseModule):
    """3x3 convolutions of stride 2, for the probe.

    Two of them see 7 x 7 pixels. Whatever depends on more distant pixels is left to the
    layers that follow.

    Args:
        channels: Output channels of each convolution.
        norm_cfg: Norm after each convolution.
        init_cfg: See mmengine's BaseModule.
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
                # Zero padding would reveal the distance to the border.
                ConvModule(a, b, 3, 2, 1, norm_cfg=norm_cfg, padding_mode='reflect')
                for a, b in zip(widths, channels)
            )
        )

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """Compute one feature map.

        Args:
            x: (B, 3, H, W).

        Returns:
            One map (B, channels[-1], H / 2^n, W / 2^n) after n convolutions.
        """
        return (self.layers(x),)
