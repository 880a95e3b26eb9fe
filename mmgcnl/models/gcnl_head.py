"""Decode head with the block between two convolutions."""

from __future__ import annotations

from typing import Any

import torch
from mmseg.models.decode_heads import FCNHead
from mmseg.registry import MODELS
from torch import Tensor

from mmgcnl.layers.arguments import check_rate, check_whole_number, is_index

from .blocks import GCNonLocal2dAdapter
from .layer_cfgs import build_norm, check_layer_cfg


@MODELS.register_module()
class GCNLHead(FCNHead):
    """mmseg's NLHead with GCNonLocal2d as its block.

    Args:
        block: Options of :class:`GCNonLocal2dAdapter` that differ from its defaults, for
            example ``dict(num_heads=1, position=None)``. ``in_channels`` is the head's
            ``channels``; ``norm_cfg`` is the head's unless given here. Default: none.
        **kwargs: See mmseg's FCNHead. ``num_convs`` is always 2.

    Raises:
        TypeError: ``block`` or the config of a layer is not a dict, or has an unknown
            option.
        ValueError: An option is outside of its range.
    """

    def __init__(self, block: dict | None = None, **kwargs: Any) -> None:
        if block is not None and not isinstance(block, dict):
            raise TypeError(f'block={block!r}: give a dict of options of GCNonLocal2d')
        _check_options(kwargs)
        super().__init__(num_convs=2, **kwargs)
        self.block = GCNonLocal2dAdapter(
            **{'in_channels': self.channels, 'norm_cfg': self.norm_cfg, **(block or {})}
        )

    def _forward_feature(self, inputs: list[Tensor]) -> Tensor:
        """Compute the map (B, channels, H, W) that the head classifies.

        Args:
            inputs: Feature maps of the backbone.
        """
        x = self._transform_inputs(inputs)
        output = self.convs[1](self.block(self.convs[0](x)))
        if self.concat_input:
            output = self.conv_cat(torch.cat([x, output], dim=1))
        return output


def _check_options(options: dict[str, Any]) -> None:
    """Check what mmseg's heads check by bare asserts, or not at all."""
    for name in ('channels', 'num_classes', 'kernel_size', 'dilation'):
        if name in options:
            check_whole_number(name, options[name])
    kernel_size = options.get('kernel_size', 1)
    if kernel_size % 2 == 0:
        raise ValueError(
            f'kernel_size={kernel_size}: give an odd number, which keeps the size'
        )
    check_rate('dropout_ratio', options.get('dropout_ratio', 0))
    for name in ('conv_cfg', 'norm_cfg', 'act_cfg'):
        check_layer_cfg(name, options.get(name))
    if options.get('norm_cfg') is not None and 'channels' in options:
        build_norm(options['norm_cfg'], options['channels'])
    _check_inputs(**{key: options[key] for key in _INPUTS if key in options})


_INPUTS = ('in_channels', 'in_index', 'input_transform')


def _check_inputs(
    in_channels: Any = 1, in_index: Any = -1, input_transform: Any = None
) -> None:
    """Check that the options that select feature maps agree."""
    if input_transform is None:
        check_whole_number('in_channels', in_channels)
        if not is_index(in_index):
            raise ValueError(
                f'in_index={in_index!r}: give the number of a feature map, or '
                "input_transform='resize_concat' for several"
            )
        return
    if input_transform != 'resize_concat':
        raise ValueError(
            f'input_transform={input_transform!r}: '
            "give 'resize_concat', or None for one map"
        )
    for name, numbers in (('in_channels', in_channels), ('in_index', in_index)):
        if not isinstance(numbers, (list, tuple)) or not numbers:
            raise ValueError(
                f"{name}={numbers!r}: with input_transform='resize_concat' give a list"
            )
    if len(in_channels) != len(in_index):
        raise ValueError(
            f'in_channels={in_channels!r} and in_index={in_index!r} differ in length: '
            'give the channels of each map'
        )
    for channels in in_channels:
        check_whole_number('in_channels', channels)
    if not all(map(is_index, in_index)):
        raise ValueError(f'in_index={in_index!r}: give numbers of feature maps')
