"""Decode head: a fully convolutional head with the block between its two convolutions."""

from __future__ import annotations

from typing import Any

import torch
from mmseg.models.decode_heads import FCNHead
from mmseg.registry import MODELS
from torch import Tensor

from .blocks import GCNonLocal2d


@MODELS.register_module()
class GCNLHead(FCNHead):
    """mmseg's NLHead with :class:`GCNonLocal2d` as its block.

    Args:
        block (dict): Arguments of :class:`GCNonLocal2d` that differ from its defaults, for
            example ``dict(num_heads=1, position=None)``. ``in_channels`` is the head's
            ``channels``; ``norm_cfg`` is the head's unless given here. Default: none.
        **kwargs: See mmseg's FCNHead, ``num_convs`` excepted: it is 2.
    """

    def __init__(self, block: dict | None = None, **kwargs: Any) -> None:
        super().__init__(num_convs=2, **kwargs)
        self.block = GCNonLocal2d(
            **{'in_channels': self.channels, 'norm_cfg': self.norm_cfg, **(block or {})}
        )

    def _forward_feature(self, inputs: list[Tensor]) -> Tensor:
        """Backbone features to the map (B, channels, H, W) that is classified."""
        x = self._transform_inputs(inputs)
        output = self.convs[1](self.block(self.convs[0](x)))
        if self.concat_input:
            output = self.conv_cat(torch.cat([x, output], dim=1))
        return output
