"""Tiny drawn data sets, configs on them, and ways to call the tools."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import mmcv
import numpy as np
import pytest
from mmengine.utils import ManagerMixin

TOOLS = Path(__file__).parents[2] / 'tools'

RUNTIME = """
custom_imports = dict(imports=['mmgcnl'], allow_failed_imports=False)
env_cfg = dict(dist_cfg=dict(backend='nccl'))
log_level = 'WARNING'
randomness = dict(seed=0)
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9))
train_cfg = dict(type='IterBasedTrainLoop', max_iters=2, val_interval=1000)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=16)
"""

SEGMENTOR = """
default_scope = 'mmseg'
norm_cfg = dict(type='SyncBN')
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(type='SegDataPreProcessor', size=(32, 32),
                           mean=[128.] * 3, std=[64.] * 3),
    backbone=dict(type='ResNetV1c', depth=18, base_channels=8, stem_channels=8,
                  norm_cfg=norm_cfg, norm_eval=True,
                  init_cfg=dict(type='Pretrained',
                                checkpoint='open-mmlab://resnet18_v1c')),
    decode_head=dict(type='GCNLHead', in_channels=64, in_index=3, channels=16,
                     block=dict(attn_drop_rate=0.), dropout_ratio=0,
                     num_classes=2, norm_cfg=None),
    test_cfg=dict(mode='whole'))
train_dataloader = dict(
    batch_size=2, num_workers=0,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='BaseSegDataset', data_root='{root}',
        data_prefix=dict(img_path='images', seg_map_path='labels'),
        img_suffix='.png', seg_map_suffix='.png',
        metainfo=dict(classes=('ground', 'square'),
                      palette=[[0, 0, 0], [255, 0, 0]]),
        pipeline=[dict(type='LoadImageFromFile'),
                  dict(type='LoadAnnotations'),
                  dict(type='PackSegInputs')]))
val_dataloader = dict(
    batch_size=1, num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=train_dataloader['dataset'])
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric')
test_evaluator = val_evaluator
visualizer = dict(type='SegLocalVisualizer',
                  vis_backends=[dict(type='LocalVisBackend')])
default_hooks = dict(visualization=dict(type='SegVisualizationHook'),
                     checkpoint=dict(type='CheckpointHook', by_epoch=False,
                                     interval=1),
                     logger=dict(type='LoggerHook', interval=1))
log_processor = dict(by_epoch=False)
tta_model = dict(type='SegTTAModel')
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='TestTimeAug', transforms=[
        [dict(type='RandomFlip', prob=0.), dict(type='RandomFlip', prob=1.)],
        [dict(type='LoadAnnotations')],
        [dict(type='PackSegInputs')]])]
"""

DETECTOR = """
_base_ = 'mmdet::_base_/models/retinanet_r50_fpn.py'
default_scope = 'mmdet'
model = dict(
    backbone=dict(depth=18, base_channels=8,
                  init_cfg=dict(checkpoint='torchvision://resnet18')),
    neck=[dict(type='FPN', in_channels=[8, 16, 32, 64], out_channels=16,
               start_level=1, add_extra_convs='on_input', num_outs=5),
          dict(type='EBFPN', in_channels=16, num_levels=5)],
    bbox_head=dict(num_classes=1, in_channels=16, feat_channels=16,
                   stacked_convs=1),
    test_cfg=dict(score_thr=0.))
train_dataloader = dict(
    batch_size=1, num_workers=0,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='CocoDataset', data_root='{root}', ann_file='boxes.json',
        data_prefix=dict(img='images'),
        metainfo=dict(classes=('square',), palette=[(255, 0, 0)]),
        pipeline=[dict(type='LoadImageFromFile'),
                  dict(type='LoadAnnotations', with_bbox=True),
                  dict(type='Resize', scale=(64, 64)),
                  dict(type='PackDetInputs')]))
val_dataloader = dict(
    batch_size=1, num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(train_dataloader['dataset'], test_mode=True))
test_dataloader = val_dataloader
val_evaluator = dict(type='CocoMetric', ann_file='{root}/boxes.json',
                     metric='bbox')
test_evaluator = val_evaluator
visualizer = dict(type='DetLocalVisualizer',
                  vis_backends=[dict(type='LocalVisBackend')])
default_hooks = dict(visualization=dict(type='DetVisualizationHook'),
                     checkpoint=dict(type='CheckpointHook', by_epoch=False,
                                     interval=1),
                     logger=dict(type='LoggerHook', interval=1))
log_processor = dict(by_epoch=False)
"""


@pytest.fixture(scope='session')
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of 5 images (32, 32) with one bright square each, label maps and boxes."""
    root = tmp_path_factory.mktemp('squares')
    rng = np.random.default_rng(0)
    coco = dict(images=[], annotations=[], categories=[dict(id=1, name='square')])
    for i in range(1, 6):
        x, y = (int(v) for v in rng.integers(0, 16, 2))
        label = np.zeros((32, 32), np.uint8)
        label[y : y + 16, x : x + 16] = 1
        image = rng.integers(0, 100, (32, 32, 3)) + 100 * label[..., None]
        mmcv.imwrite(image.astype(np.uint8), str(root / f'images/{i}.png'))
        mmcv.imwrite(label, str(root / f'labels/{i}.png'))
        coco['images'].append(dict(id=i, file_name=f'{i}.png', width=32, height=32))
        coco['annotations'].append(
            dict(
                id=i,
                image_id=i,
                category_id=1,
                bbox=[x, y, 16, 16],
                area=256,
                iscrowd=0,
            )
        )
    (root / 'boxes.json').write_text(json.dumps(coco))
    return root


@pytest.fixture
def segmentor(tmp_path: Path, squares: Path) -> Path:
    """Path of a segmentor's config."""
    path = tmp_path / 'segmentor.py'
    path.write_text(RUNTIME + SEGMENTOR.replace('{root}', str(squares)))
    return path


@pytest.fixture
def detector(tmp_path: Path, squares: Path) -> Path:
    """Path of a detector's config."""
    path = tmp_path / 'detector.py'
    path.write_text(DETECTOR.replace('{root}', str(squares)) + RUNTIME)
    return path


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Call main() of tools/<name>.py in this process, as if it were a new one."""

    def call(name: str, *arguments: object) -> None:
        path = TOOLS / f'{name}.py'
        spec = importlib.util.spec_from_file_location(f'{name}_tool', path)
        tool = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(tool)
        # Loggers, visualizers and message hubs are kept by name for the whole
        # process: a second run would write into the first one's folder.
        managers = [ManagerMixin]
        for manager in managers:
            managers += manager.__subclasses__()
            manager._instance_dict.clear()
        tool.main([str(argument) for argument in arguments])

    monkeypatch.setenv('LOCAL_RANK', '0')  # what main() sets goes with the test
    return call


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., str]:
    """Run a command away from the checkout and return what it prints."""

    def run(*command: object, **env: object) -> str:
        result = subprocess.run(
            [str(word) for word in command],
            cwd=tmp_path,
            env={
                **os.environ,
                'CUDA_VISIBLE_DEVICES': '',
                'OMP_NUM_THREADS': '1',
                'PYTHON': sys.executable,
                'PYTHONPATH': f'{TOOLS.parent}:{tmp_path}',
                **{key: str(value) for key, value in env.items()},
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        assert result.returncode == 0, result.stdout
        return result.stdout

    return run
