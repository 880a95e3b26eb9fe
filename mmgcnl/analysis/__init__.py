"""Studies of what the attention does: functions that the tools call."""

from .blocks import Grid, find_blocks, grids, iter_attention
from .cosine_distance import DistanceRecorder, mean_cosine_distance
from .figures import draw_attention
from .geometry import PixelMap
from .samples import Sample, Split, label_map

__all__ = [
    'DistanceRecorder',
    'Grid',
    'PixelMap',
    'Sample',
    'Split',
    'draw_attention',
    'find_blocks',
    'grids',
    'iter_attention',
    'label_map',
    'mean_cosine_distance',
]
