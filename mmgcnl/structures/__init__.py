"""Predictions as plain arrays and numbers, and their COCO form.

mmdet and mmseg give predictions as data samples. They are decoded here, once, for
everything that draws, evaluates or writes them.
"""

from .coco import coco_categories, coco_instances, coco_panoptic
from .panoptic import (
    VOID,
    PanopticPrediction,
    encode_panoptic_truth,
    id2rgb,
    read_segment_ids,
    rgb2id,
    write_segment_ids,
)
from .prediction import (
    InstancePrediction,
    Prediction,
    SemanticPrediction,
    decode_prediction,
    write_labels,
)

__all__ = [
    'VOID',
    'InstancePrediction',
    'PanopticPrediction',
    'Prediction',
    'SemanticPrediction',
    'coco_categories',
    'coco_instances',
    'coco_panoptic',
    'decode_prediction',
    'encode_panoptic_truth',
    'id2rgb',
    'read_segment_ids',
    'rgb2id',
    'write_labels',
    'write_segment_ids',
]
