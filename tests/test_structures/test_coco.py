"""Predictions in COCO's form."""

import pytest
from pycocotools import mask as coco_mask

from mmgcnl.structures import (
    InstancePrediction,
    coco_categories,
    coco_instances,
    coco_panoptic,
)

RLE = dict(size=[2, 3], counts='02200O0')  # COCO's compressed run lengths


@pytest.mark.parametrize('masks', [None, [RLE]], ids=['boxes', 'masks'])
def test_instances(masks):
    prediction = InstancePrediction([1], [0.5], [[1.0, 2.0, 4.0, 4.0]], masks)
    (annotation,) = coco_instances(prediction, image_id=7, first_id=3)
    expected = dict(id=3, image_id=7, category_id=2, score=0.5, iscrowd=0)
    expected |= dict(bbox=[1.0, 2.0, 3.0, 2.0], area=6.0)
    if masks:
        expected |= dict(segmentation=RLE, area=int(coco_mask.area(RLE)))
    assert annotation == expected


def test_ids_start_at_1_and_classes_at_0():
    assert coco_categories(('cat', 'grass'), ('cat',)) == [
        dict(id=1, name='cat', isthing=1),
        dict(id=2, name='grass', isthing=0),
    ]
    segments = (dict(id=1, category_id=2) for _ in range(1))
    assert coco_panoptic(1, 'a.png', segments) == dict(
        image_id=1, file_name='a.png', segments_info=[dict(id=1, category_id=2)]
    )
