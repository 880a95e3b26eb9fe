"""COCO's JSON: categories, and the annotations of predictions.

COCO's format is described at https://cocodataset.org/#format-data. Ids of categories,
images and annotations start at 1, classes at 0.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from .prediction import InstancePrediction


def coco_categories(classes: Sequence[str], things: Collection[str]) -> list[dict]:
    """Make COCO's categories of a data set.

    Args:
        classes: Names of the classes, in order.
        things: Those of them that are things, not stuff.
    """
    return [
        dict(id=i, name=name, isthing=int(name in things))
        for i, name in enumerate(classes, 1)
    ]


def coco_instances(
    prediction: InstancePrediction, image_id: int, first_id: int
) -> list[dict]:
    """Make COCO's annotations of the objects in an image, with their scores.

    Args:
        prediction: The objects.
        image_id: Id of the image.
        first_id: Id of the first annotation.
    """
    from pycocotools import mask as coco_mask

    annotations = []
    objects = zip(prediction.labels, prediction.scores, prediction.bboxes)
    for i, (label, score, (x1, y1, x2, y2)) in enumerate(objects):
        annotation: dict[str, Any] = dict(
            id=first_id + i,
            image_id=image_id,
            category_id=label + 1,
            score=score,
            bbox=[x1, y1, x2 - x1, y2 - y1],
            area=(x2 - x1) * (y2 - y1),
            iscrowd=0,
        )
        if prediction.masks is not None:
            annotation['segmentation'] = prediction.masks[i]
            annotation['area'] = int(coco_mask.area(prediction.masks[i]))
        annotations.append(annotation)
    return annotations


def coco_panoptic(image_id: int, file_name: str, segments: Iterable[dict]) -> dict:
    """Make COCO's panoptic annotation of an image.

    Args:
        image_id: Id of the image.
        file_name: Name of the PNG with the segments' ids.
        segments: What COCO calls segments_info, ``category_id`` being a category's id.
    """
    return dict(image_id=image_id, file_name=file_name, segments_info=list(segments))
