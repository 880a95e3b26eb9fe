"""The prediction of a detector, segmentor or panoptic network for one image.

Shape shorthand: H, W: pixels; K: instances.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mmcv
import numpy as np
from mmengine.structures import BaseDataElement

from .panoptic import PanopticPrediction


@dataclass(frozen=True)
class SemanticPrediction:
    """Semantic segmentation.

    Attributes:
        labels: Class of each pixel (H, W), from 0.
    """

    labels: np.ndarray


@dataclass(frozen=True)
class InstancePrediction:
    """Detected objects, and their masks if the model predicts them.

    Attributes:
        labels: K classes, from 0.
        scores: K scores, from 0 to 1.
        bboxes: K boxes, x1, y1, x2, y2 in pixels.
        masks: K masks as COCO's compressed run lengths, counts being a str; or None.
    """

    labels: list[int]
    scores: list[float]
    bboxes: list[list[float]]
    masks: list[dict[str, Any]] | None


Prediction = SemanticPrediction | InstancePrediction | PanopticPrediction


def decode_prediction(sample: BaseDataElement, num_classes: int) -> Prediction:
    """Decode a data sample on the CPU.

    Args:
        sample: With ``pred_panoptic_seg``, ``pred_sem_seg`` or ``pred_instances``, of
            which the first that is there is taken.
        num_classes: Number of classes of the model.
    """
    if 'pred_panoptic_seg' in sample:
        return PanopticPrediction.decode(sample.pred_panoptic_seg, num_classes)
    if 'pred_sem_seg' in sample:
        return SemanticPrediction(sample.pred_sem_seg.data[0].numpy())
    instances = sample.pred_instances
    masks = None
    if 'masks' in instances:
        from mmdet.structures.mask import encode_mask_results

        masks = [
            dict(mask, counts=mask['counts'].decode())
            for mask in encode_mask_results(instances.masks)
        ]
    return InstancePrediction(
        instances.labels.tolist(),
        instances.scores.tolist(),
        instances.bboxes.tolist(),
        masks,
    )


def write_labels(labels: np.ndarray, path: str, num_classes: int) -> None:
    """Write a label map (H, W) as PNG, together with its folder.

    It has 8 bits per pixel, or 16 for more than 256 classes, the same for every image; also
    16 where a model predicts more classes than have names.
    """
    needed = max(num_classes, int(labels.max(initial=0)) + 1)
    mmcv.imwrite(labels.astype(np.uint16 if needed > 256 else np.uint8), path)
