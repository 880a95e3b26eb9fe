"""A training stops before it starts if its data cannot give what results seem to say."""

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from mmgcnl.engine import ConfigError, build_runner
from tests.builders import call_tool, draw_squares, forget_instances, write_segmentor

LOAD = dict(type='LoadImageFromFile')
LABELS = dict(type='LoadAnnotations')
RESIZE = dict(type='Resize', scale=(64, 64), keep_ratio=True)
PACK = dict(type='PackSegInputs')


@pytest.fixture
def root(tmp_path):
    draw_squares(tmp_path / 'squares')
    return tmp_path / 'squares'


@pytest.fixture
def cfg(tmp_path, root):
    cfg = Config.fromfile(write_segmentor(tmp_path / 'segmentor.py', root))
    cfg.model.backbone.init_cfg = None
    cfg.work_dir = str(tmp_path / 'work')
    return cfg


def stop(cfg) -> str:
    forget_instances()
    with pytest.raises(ConfigError) as error:
        build_runner(cfg).train()
    text = str(error.value)
    assert text.endswith('turn this check off with check_splits=False')
    return text


def save_as_0_and_255(root):
    for path in (root / 'labels').iterdir():
        Image.fromarray(255 * np.array(Image.open(path))).save(path)


def test_faultless(cfg):
    forget_instances()
    build_runner(cfg).train()


@pytest.mark.parametrize(
    'settings, message',
    [
        (dict(reduce_zero_label=True), 'val: reduce_zero_label is True here, and False'),
        (dict(ignore_index=254), 'val: ignore_index is 254 here, and 255 for'),
        (
            dict(metainfo=dict(classes=('square', 'ground'), palette=[[0] * 3] * 2)),
            'val: 2 (square, ground) are the classes here, and 2 (ground, square) those',
        ),
    ],
)
def test_other_settings_of_the_validation_data(cfg, settings, message):
    cfg.val_dataloader.dataset.update(settings)
    assert message in stop(cfg)


def test_no_class_names(cfg):
    """mmseg's metric would stop at the end of the first validation."""
    for split in ('train', 'val'):
        del cfg[f'{split}_dataloader'].dataset['metainfo']
    assert stop(cfg).startswith('train: no class names: set metainfo.classes')


def test_two_classes_as_0_and_255(cfg, root):
    save_as_0_and_255(root)
    text = stop(cfg)
    assert 'train: all pixels of the label maps are ground or have the value 255' in text


@pytest.mark.parametrize(
    'pipeline, message',
    [
        ([LOAD, PACK], 'val: IoUMetric needs gt_sem_seg'),
        ([LOAD, LABELS, RESIZE, PACK], 'val: IoUMetric compares in the size of the image'),
    ],
)
def test_validation_data_without_truth(cfg, pipeline, message):
    cfg.val_dataloader.dataset.pipeline = pipeline
    assert message in stop(cfg)


def test_no_validation(cfg):
    forget_instances()
    for key in ('val_dataloader', 'val_evaluator', 'val_cfg'):
        cfg[key] = None
    build_runner(cfg).train()


class TestIgnoreIndex:
    def test_of_the_head(self, cfg):
        cfg.model.decode_head.ignore_index = 0
        expected = (
            'ignore_index of IoUMetric is 255, but model.decode_head.ignore_index is 0'
        )
        assert expected in stop(cfg)

    def test_of_the_metric(self, cfg):
        cfg.val_evaluator.ignore_index = 0
        expected = (
            'ignore_index of IoUMetric is 0, but model.decode_head.ignore_index is 255'
        )
        assert expected in stop(cfg)

    def test_of_the_data_only(self, cfg):
        for split in ('train', 'val'):
            cfg[f'{split}_dataloader'].dataset.ignore_index = 0
        assert 'ignore_index of the data set is 0, but model.decode_head' in stop(cfg)

    def test_of_head_and_metric(self, cfg):
        cfg.model.decode_head.ignore_index = cfg.val_evaluator.ignore_index = 0
        forget_instances()
        build_runner(cfg).train()


def test_the_check_can_be_turned_off(cfg, root):
    save_as_0_and_255(root)
    cfg.check_splits = False
    forget_instances()
    build_runner(cfg).train()


def test_exit_code_of_the_tool(tmp_path, root, capsys, monkeypatch):
    monkeypatch.setenv('LOCAL_RANK', '0')
    save_as_0_and_255(root)
    config = write_segmentor(tmp_path / 'segmentor.py', root)
    with pytest.raises(SystemExit) as stopped:
        call_tool(
            'train',
            *(config, '--work-dir', tmp_path / 'work'),
            *('--cfg-options', 'model.backbone.init_cfg=None'),
        )
    assert stopped.value.code == 2
    assert 'all pixels of the label maps are ground or' in capsys.readouterr().err
