"""Panoptic segments: mmdet's ids, numbers from 1, and COCO's colors."""

import numpy as np
import pytest
import torch
from mmdet.evaluation import INSTANCE_OFFSET
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import BaseDataElement, PixelData
from PIL import Image

from mmgcnl.structures import (
    PanopticPrediction,
    encode_panoptic_truth,
    read_segment_ids,
    write_segment_ids,
)


def test_read_in_the_order_of_the_file(tmp_path):
    path = str(tmp_path / 'a.png')
    Image.fromarray(np.full((1, 2, 3), (7, 1, 0), np.uint8)).save(path)
    assert read_segment_ids(path).tolist() == [[263, 263]]


def test_files_are_read_as_they_were_written(tmp_path):
    ids = np.array([[0, 1, 255], [256, 70000, 2**24 - 1]])
    path = str(tmp_path / 'new' / 'a.png')
    write_segment_ids(ids, path)
    np.testing.assert_array_equal(read_segment_ids(path), ids)


def test_no_image(tmp_path):
    path = tmp_path / 'a.png'
    path.write_text('no image')
    with pytest.raises(ValueError, match=f'{path} does not decode'):
        read_segment_ids(str(path))


# Ids of mmdet are label + INSTANCE_OFFSET * instance; 3 classes, of which 2 are things.
DOG, CAT, GRASS, VOID = 1, 0, 2, 3
ENCODED = [
    [DOG + INSTANCE_OFFSET, DOG + INSTANCE_OFFSET, DOG + 2 * INSTANCE_OFFSET],
    [GRASS, VOID, CAT + INSTANCE_OFFSET],
]


@pytest.mark.parametrize('as_dict', [False, True], ids=['data sample', 'dict'])
def test_decode(as_dict):
    sem_seg = torch.tensor([ENCODED])
    sample = dict(sem_seg=sem_seg) if as_dict else PixelData(sem_seg=sem_seg)
    prediction = PanopticPrediction.decode(sample, 3)
    assert prediction.ids.dtype == np.int32
    found = [[prediction.labels.get(i) for i in row] for row in prediction.ids.tolist()]
    assert found == [[DOG, DOG, DOG], [GRASS, None, CAT]]
    (first, second, third), (_, void, _) = prediction.ids.tolist()
    assert first == second != third  # two dogs
    assert void == 0
    assert sorted(prediction.labels) == [1, 2, 3, 4]
    infos = {info['id']: info for info in prediction.segments_info(num_things=2)}
    assert infos[first] == dict(id=first, category_id=DOG, isthing=1, area=2)
    grass = prediction.ids[1, 0]
    assert infos[grass] == dict(id=grass, category_id=GRASS, isthing=0, area=1)


def test_ignore_index_is_void():
    """As in mmdet's metric: some models name their void label."""
    sample = PixelData(
        metainfo=dict(ignore_index=255), sem_seg=torch.tensor([[[GRASS, 255, VOID]]])
    )
    prediction = PanopticPrediction.decode(sample, 3)
    assert prediction.ids.tolist() == [[1, 0, 0]]
    assert prediction.labels == {1: GRASS}


def test_truth_is_encoded_as_predictions_are():
    truth = BaseDataElement(
        gt_sem_seg=PixelData(sem_seg=torch.tensor([[[GRASS, 255, DOG, DOG]]])),
        gt_instances=BaseDataElement(
            masks=BitmapMasks(np.array([[[0, 0, 1, 0]], [[0, 0, 0, 1]]], np.uint8), 1, 4),
            labels=torch.tensor([DOG, DOG]),
        ),
    )
    prediction = PanopticPrediction.decode(encode_panoptic_truth(truth, 3), 3)
    assert prediction.ids.tolist() == [[1, 0, 2, 3]]
    assert prediction.labels == {1: GRASS, 2: DOG, 3: DOG}
    assert truth.gt_sem_seg.sem_seg.tolist() == [[[GRASS, 255, DOG, DOG]]]  # unchanged
