"""EBFPN: a balanced feature pyramid, refined by any module.

Shape shorthand: B images, C channels, level i of the pyramid (B, C, H_i, W_i).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from .arguments import check_whole_number, is_index
from .resize import add_resized, resize


class EBFPN(nn.Module):
    """Balanced feature pyramid (Libra R-CNN) refined by a module.

    All levels are resized to one size and averaged, the mean is refined, and the result is
    resized and added to every level.

    >>> import torch
    >>> from mmgcnl.layers import EBFPN, GCNonLocal2d
    >>> neck = EBFPN(256, num_levels=3, refine=GCNonLocal2d(256, reduction=1, kv_stride=2))
    >>> levels = [torch.rand(1, 256, size, size) for size in (32, 16, 8)]
    >>> [tuple(level.shape) for level in neck(levels)]
    [(1, 256, 32, 32), (1, 256, 16, 16), (1, 256, 8, 8)]

    Args:
        in_channels: Channels of every level.
        num_levels: Number of levels.
        refine_level: The level whose size the mean is refined at, from 0.
        refine: The module that refines the mean, (B, C, H, W) to the same shape; the
            paper's is ``GCNonLocal2d(in_channels, reduction=1, kv_stride=2)``. None: no
            refinement.

    Raises:
        TypeError: ``refine`` is not a module.
        ValueError: Another argument is outside of its range.
    """

    def __init__(
        self,
        in_channels: int,
        num_levels: int,
        refine_level: int = 2,
        *,
        refine: nn.Module | None,
    ) -> None:
        super().__init__()
        check_whole_number('in_channels', in_channels)
        check_whole_number('num_levels', num_levels)
        if not is_index(refine_level) or not 0 <= refine_level < num_levels:
            raise ValueError(
                f'refine_level={refine_level!r}: give one of the num_levels={num_levels} '
                f'levels, 0 to {num_levels - 1}'
            )
        if not isinstance(refine, (nn.Module, type(None))):
            raise TypeError(
                f'refine={refine!r}: give a module, or None. mmgcnl.EBFPN takes a config'
            )
        self.in_channels = in_channels
        self.num_levels = num_levels
        self.refine_level = refine_level
        self.refine = refine

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
