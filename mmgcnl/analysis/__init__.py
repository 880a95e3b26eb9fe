"""Studies of what the attention does: functions that the tools call."""

from .blocks import Grid, find_blocks, grids, iter_attention
from .cosine_distance import DistanceRecorder, mean_cosine_distance
from .figures import draw_attention
from .geometry import PixelMap

__all__ = [
    'DistanceRecorder',
    'Grid',
    'PixelMap',
    'draw_attention',
    'find_blocks',
    'grids',
    'iter_attention',
    'mean_cosine_distance',
]
