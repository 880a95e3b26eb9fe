"""Data samples of each task, decoded."""

import json

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from pycocotools import mask as coco_mask

from mmgcnl.structures import (
    InstancePrediction,
    PanopticPrediction,
    SemanticPrediction,
    decode_prediction,
)


def test_semantic():
    sample = BaseDataElement(pred_sem_seg=PixelData(data=torch.tensor([[[0, 2], [1, 1]]])))
    prediction = decode_prediction(sample, 3)
    assert isinstance(prediction, SemanticPrediction)
    assert prediction.labels.tolist() == [[0, 2], [1, 1]]


@pytest.mark.parametrize('with_masks', [True, False])
def test_instances(with_masks):
    instances = InstanceData(
        labels=torch.tensor([1, 0]),
        scores=torch.tensor([0.5, 0.25]),
        bboxes=torch.tensor([[0.0, 1.0, 2.0, 3.0], [1.0, 1.0, 2.0, 2.0]]),
    )
    masks = torch.zeros(2, 4, 5, dtype=torch.bool)
    masks[0, 1:3, :2] = masks[1, 1, 1] = True
    if with_masks:
        instances.masks = masks
    prediction = decode_prediction(DetDataSample(pred_instances=instances), 2)
    assert isinstance(prediction, InstancePrediction)
    assert prediction.labels == [1, 0]
    assert prediction.scores == [0.5, 0.25]
    assert prediction.bboxes[0] == [0.0, 1.0, 2.0, 3.0]
    if not with_masks:
        assert prediction.masks is None
        return
    json.dumps(prediction.masks)  # str, not bytes
    decoded = [coco_mask.decode(rle) for rle in prediction.masks]
    np.testing.assert_array_equal(np.stack(decoded), masks.numpy())


def test_panoptic_comes_before_its_parts():
    """Panoptic networks give instances too."""
    sample = DetDataSample(
        pred_panoptic_seg=PixelData(sem_seg=torch.zeros(1, 2, 2, dtype=torch.long)),
        pred_instances=InstanceData(),
    )
    assert isinstance(decode_prediction(sample, 2), PanopticPrediction)
