"""Studies of the attention, of costs and of predictions: functions that the tools call."""

from .ablation import ABLATIONS, ablate_priors, ablated, ablations_of, record_contexts
from .attention import Scene, attention_at, head_queries, mean_queries, observe
from .blocks import (
    Grid,
    attention_by_query,
    block_type,
    find_blocks,
    grids,
    iter_attention,
)
from .cosine_distance import DistanceRecorder, mean_cosine_distance, measure_distances
from .figures import Query, draw_attention, draw_panels
from .geometry import PixelMap
from .norm_statistics import set_norm_statistics
from .panels import prediction_panels
from .samples import Sample, Split, label_map, read_label_map

__all__ = [
    'ABLATIONS',
    'DistanceRecorder',
    'Grid',
    'PixelMap',
    'Query',
    'Sample',
    'Scene',
    'Split',
    'ablate_priors',
    'ablated',
    'ablations_of',
    'attention_at',
    'attention_by_query',
    'block_type',
    'draw_attention',
    'draw_panels',
    'find_blocks',
    'grids',
    'head_queries',
    'iter_attention',
    'label_map',
    'mean_cosine_distance',
    'mean_queries',
    'measure_distances',
    'observe',
    'prediction_panels',
    'read_label_map',
    'record_contexts',
    'set_norm_statistics',
]
