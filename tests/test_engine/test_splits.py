"""A training stops before it starts if its data cannot give what results seem to say."""

import numpy as np
import pytest
from PIL import Image

from mmgcnl.engine import ConfigError, build_runner
from tests.builders import forget_instances


def train(cfg) -> None:
    forget_instances()
    build_runner(cfg).train()


def stop(cfg) -> str:
    with pytest.raises(ConfigError) as error:
        train(cfg)
    text = str(error.value)
    assert text.endswith('turn this check off with check_splits=False')
    return text


def save_as_0_and_255(folder):
    for path in (folder / 'squares/labels').iterdir():
        Image.fromarray(255 * np.array(Image.open(path))).save(path)


def test_faultless(cfg):
    train(cfg)


def test_other_settings_of_the_validation_data(cfg):
    classes = dict(classes=('square', 'ground'), palette=[[0] * 3] * 2)
    cfg.val_dataloader.dataset.metainfo = classes
    expected = 'val: 2 (square, ground) are the classes here, and 2 (ground, square) those'
    assert expected in stop(cfg)


def test_no_class_names(cfg):
    """mmseg's metric would stop at the end of the first validation."""
    for split in ('train', 'val'):
        del cfg[f'{split}_dataloader'].dataset['metainfo']
    assert stop(cfg).startswith('train: no class names: set metainfo.classes')


def test_two_classes_as_0_and_255(cfg, tmp_path):
    save_as_0_and_255(tmp_path)
    text = stop(cfg)
    assert 'train: all pixels of the label maps are ground or have the value 255' in text


def test_validation_data_without_truth(cfg):
    load, _, pack = cfg.val_dataloader.dataset.pipeline
    cfg.val_dataloader.dataset.pipeline = [load, pack]
    assert 'val: IoUMetric needs gt_sem_seg' in stop(cfg)


def test_no_validation(cfg):
    for key in ('val_dataloader', 'val_evaluator', 'val_cfg'):
        cfg[key] = None
    train(cfg)


class TestIgnoreIndex:
    @pytest.mark.parametrize('head, metric', [(0, 255), (255, 0)])
    def test_of_head_or_metric(self, cfg, head, metric):
        cfg.model.decode_head.ignore_index = head
        cfg.val_evaluator.ignore_index = metric
        assert (
            f'ignore_index of IoUMetric is {metric}, but model.decode_head.ignore_index is '
            f'{head}: set them to the same'
        ) in stop(cfg)

    def test_of_the_data_only(self, cfg):
        for split in ('train', 'val'):
            cfg[f'{split}_dataloader'].dataset.ignore_index = 0
        assert 'ignore_index of the data set is 0, but model.decode_head' in stop(cfg)

    def test_of_head_and_metric(self, cfg):
        cfg.model.decode_head.ignore_index = cfg.val_evaluator.ignore_index = 0
        train(cfg)


def test_the_check_can_be_turned_off(cfg, tmp_path):
    save_as_0_and_255(tmp_path)
    cfg.check_splits = False
    train(cfg)
