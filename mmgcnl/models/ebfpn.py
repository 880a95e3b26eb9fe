"""EBFPN as a neck that configs name, refined by any registered block."""

from __future__ import annotations

import copy
from typing import Any

from mmengine.model import BaseModule, initialize
from mmengine.registry import MODELS

from mmgcnl import layers
from mmgcnl.layers.arguments import check_whole_number

from .layer_cfgs import check_layer_cfg


@MODELS.register_module()
class EBFPN(layers.EBFPN, BaseModule):
    """What ``type='EBFPN'`` builds: :class:`mmgcnl.layers.EBFPN`, refined by a config.

    The neck follows an FPN::

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
        init_cfg: See mmengine's BaseModule; it has the last word, over the block's own
            initialisation, too. With ``dict(type='Xavier', layer='Conv2d',
            distribution='uniform')`` the neck starts as mmdet 1.x's BFP, whatever its
            block: all convolutions are drawn, the output layer included. Default: the
            block's own initialisation, as in today's BFP.

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
        check_whole_number('in_channels', in_channels)
        check_layer_cfg('refine', refine)
        block = (
            None if refine is None else MODELS.build({'in_channels': in_channels, **refine})
        )
        super().__init__(in_channels, num_levels, refine_level, refine=block)
        self.init_cfg = copy.deepcopy(init_cfg)

    def init_weights(self) -> None:
        """Initialise the block, then what ``init_cfg`` names.

        mmengine would do it the other way round, and the block would draw again what
        ``init_cfg`` has drawn.
        """
        first = not self.is_init
        super().init_weights()
        if first and self.init_cfg:
            initialize(self, self.init_cfg)
