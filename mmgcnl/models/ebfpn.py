"""EBFPN: a balanced feature pyramid, refined by any registered block.

Shape shorthand: B images, C channels, level i of the pyramid (B, C, H_i, W_i).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.model import BaseModule, initialize
from mmengine.registry import MODELS
from torch import Tensor

from mmgcnl.layers.arguments import check_whole_number

from .layer_cfgs import check_layer_cfg, is_index
from .resize import add_resized, resize


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

    def init_weights(self) -> None:
        """Initialise the block, then what ``init_cfg`` names.

        mmengine would do it the other way round, and the block would draw again what
        ``init_cfg`` has drawn.
        """
        first = not self.is_init
        super().init_weights()
        if first and self.init_cfg:
            initialize(self, self.init_cfg)

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
        total = resize(inputs[0], size, shrink=self.refine_level > 0)
        for i, level in enumerate(inputs[1:], 1):  # no level is kept in its new size
            total = total + resize(level, size, shrink=i < self.refine_level)
        mean = total / self.num_levels
        if self.refine is not None:
            mean = self.refine(mean)
        return tuple(
            add_resized(resize(mean, level.shape[2:], shrink=i >= self.refine_level), level)
            for i, level in enumerate(inputs)
        )
