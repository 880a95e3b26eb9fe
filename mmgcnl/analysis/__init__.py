"""Studies of what the attention does: functions that the tools call."""

from .cosine_distance import DistanceRecorder, mean_cosine_distance
from .figures import draw_attention

__all__ = ['DistanceRecorder', 'draw_attention', 'mean_cosine_distance']
