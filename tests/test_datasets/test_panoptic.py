"""COCO's panoptic annotations, loaded without panopticapi."""

import numpy as np
import pytest
from mmdet.datasets import CocoPanopticDataset
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope

CLASSES = CocoPanopticDataset.METAINFO['classes']
PERSON, CAR, SKY = map(CLASSES.index, ('person', 'car', 'sky-other-merged'))


@pytest.fixture
def config(panoptic_root, monkeypatch) -> Config:
    monkeypatch.setenv('COCO_ROOT', str(panoptic_root))
    init_default_scope('mmdet')
    return Config.fromfile('configs/_base_/datasets/coco_panoptic.py')


def test_masks_and_labels(config):
    dataset = config.train_dataloader.dataset
    dataset.pipeline = dataset.pipeline[:2]
    (sample,) = DATASETS.build(dataset)
    assert sample['gt_bboxes_labels'].tolist() == [PERSON, PERSON]
    masks = sample['gt_masks'].masks.astype(bool)
    expected = np.zeros((2, 40, 60), bool)
    expected[0, :, :20] = expected[1, :20, 20:40] = True
    np.testing.assert_array_equal(masks, expected)
    labels = np.full((40, 60), 255)
    labels[expected.any(0)] = PERSON
    labels[20:, 20:40] = CAR
    labels[:20, 40:] = SKY
    np.testing.assert_array_equal(sample['gt_seg_map'], labels)


@pytest.mark.parametrize('split', ['train', 'val', 'test'])
def test_pipelines(config, split):
    (sample,) = DATASETS.build(config[f'{split}_dataloader'].dataset)
    scale = 800 / 40
    assert sample['inputs'].shape == (3, 800, 60 * scale)
    packed = sample['data_samples']
    assert len(packed.gt_instances.masks) == 2
    # That of the validation stays as large as the prediction will be.
    size = (800, 1200) if split == 'train' else (40, 60)
    assert packed.gt_sem_seg.sem_seg.shape == (1, *size)
    assert packed.ori_shape == (40, 60)
