"""Blocks that a config can name, wherever one feature map is refined."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

from mmengine.registry import MODELS
from torch import nn

from mmgcnl.layers import GCNonLocal2d
from mmgcnl.utils.libraries import how_to_install
from mmgcnl.utils.text import did_you_mean

from .layer_cfgs import build_norm, check_layer_cfg


@MODELS.register_module(name='GCNonLocal2d')
class GCNonLocal2dAdapter(GCNonLocal2d):
    """What ``type='GCNonLocal2d'`` builds: the block, with options as configs give them.

    It serves as a ResNet plugin, as the refinement of :class:`EBFPN`, and in
    :class:`GCNLHead`.

    Args:
        in_channels: Channels of the map.
        norm_cfg: Norm after the output layer. Default: none.
        **kwargs: See :class:`mmgcnl.layers.GCNonLocal2d`.

    Raises:
        TypeError: ``norm_cfg`` is not a dict, or an option is unknown.
        ValueError: An option is outside of its range.
    """

    _abbr_ = 'gcnl_block'

    def __init__(
        self, in_channels: int, norm_cfg: dict | None = None, **kwargs: Any
    ) -> None:
        if norm_cfg is not None:
            check_layer_cfg('norm_cfg', norm_cfg)
            kwargs['norm_layer'] = partial(build_norm, norm_cfg)
        known = [*inspect.signature(GCNonLocal2d).parameters, 'norm_cfg']
        for name in kwargs:
            if name not in known:
                raise TypeError(
                    f'{name}={kwargs[name]!r} is no option of GCNonLocal2d'
                    f'{did_you_mean(name, known)}: give {", ".join(known)}'
                )
        super().__init__(in_channels, **kwargs)

    def init_weights(self) -> None:
        """Initialise again, after the init_cfg of a parent has filled every conv."""
        self.reset_parameters()

    def _get_name(self) -> str:
        # torch prints modules by this name; configs know the block as GCNonLocal2d.
        return GCNonLocal2d.__name__


@MODELS.register_module(name='SEBlock')
def build_se_refine(in_channels: int, **kwargs: Any) -> nn.Module:
    """What ``type='SEBlock'`` builds: a squeeze-and-excitation layer (Table 8, 'SE').

    Args:
        in_channels: Channels of the map, in and out.
        **kwargs: See mmdet's SELayer.

    Raises:
        ImportError: mmdet is not installed, or mmcv has no operators.
    """
    try:
        from mmdet.models.layers import SELayer
    except ImportError as error:
        raise ImportError(
            f"type='SEBlock' is mmdet's SELayer, and mmdet is missing or does not import: "
            f'{how_to_install("mmdet")}'
        ) from error
    return SELayer(in_channels, **kwargs)
