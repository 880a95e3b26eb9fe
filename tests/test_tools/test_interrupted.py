"""kill -9, then --resume: the weights of a training that was left alone."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

TOOLS = Path(__file__).parents[2] / 'tools'
ITERATIONS = 8

# Chance in everything: dropout, augmentation and, in the detector, RoI sampling.
RUNTIME = """
custom_imports = dict(imports=['mmgcnl', 'dying'], allow_failed_imports=False)
randomness = dict(seed=0, diff_rank_seed=True)
custom_hooks = [dict(type='Dying')]
default_hooks = dict(checkpoint=dict(interval=3))
optim_wrapper = dict(optimizer=dict(lr=0.001), clip_grad=dict(max_norm=10))
train_cfg = dict(type='IterBasedTrainLoop', max_iters=8, val_interval=4)
"""
AUGMENTED = {
    'segmentor': """
model = dict(backbone=dict(init_cfg=None),
             decode_head=dict(dropout_ratio=0.1, block=dict(attn_drop_rate=0.1)))
train_dataloader = dict(dataset=dict(pipeline=[
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=(40, 40), ratio_range=(0.9, 1.5)),
    dict(type='RandomCrop', crop_size=(32, 32)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs')]))
val_dataloader = dict(dataset=dict(pipeline=[
    dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'),
    dict(type='PackSegInputs')]))
""",
    'detector': """
model = dict(
    _delete_=True,
    type='FasterRCNN',
    data_preprocessor=dict(type='DetDataPreprocessor', pad_size_divisor=32,
                           mean=[128.] * 3, std=[64.] * 3),
    backbone=dict(type='ResNet', depth=18, base_channels=8, stem_channels=8,
                  out_indices=(0, 1, 2, 3)),
    neck=[dict(type='FPN', in_channels=[8, 16, 32, 64], out_channels=16, num_outs=5),
          dict(type='EBFPN', in_channels=16, num_levels=5,
               refine=dict(type='GCNonLocal2d', num_heads=2, kv_stride=2,
                           attn_drop_rate=0.1))],
    rpn_head=dict(
        type='RPNHead', in_channels=16, feat_channels=16,
        anchor_generator=dict(type='AnchorGenerator', scales=[4], ratios=[0.5, 1.0],
                              strides=[4, 8, 16, 32, 64]),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder')),
    roi_head=dict(
        type='StandardRoIHead',
        bbox_roi_extractor=dict(
            type='SingleRoIExtractor', out_channels=16,
            featmap_strides=[4, 8, 16, 32],
            roi_layer=dict(type='RoIAlign', output_size=3, sampling_ratio=0)),
        bbox_head=dict(
            type='Shared2FCBBoxHead', in_channels=16, fc_out_channels=16,
            roi_feat_size=3, num_classes=1,
            bbox_coder=dict(type='DeltaXYWHBBoxCoder',
                            target_stds=[0.1, 0.1, 0.2, 0.2]))),
    train_cfg=dict(
        rpn=dict(assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.7,
                               neg_iou_thr=0.3, min_pos_iou=0.3),
                 sampler=dict(type='RandomSampler', num=16, pos_fraction=0.5,
                              neg_pos_ub=-1, add_gt_as_proposals=False),
                 allowed_border=-1, pos_weight=-1),
        rpn_proposal=dict(nms_pre=50, max_per_img=50,
                          nms=dict(type='nms', iou_threshold=0.7), min_bbox_size=0),
        rcnn=dict(assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5,
                                neg_iou_thr=0.5, min_pos_iou=0.5),
                  sampler=dict(type='RandomSampler', num=8, pos_fraction=0.25,
                               neg_pos_ub=-1, add_gt_as_proposals=True),
                  pos_weight=-1)),
    test_cfg=dict(
        rpn=dict(nms_pre=50, max_per_img=50,
                 nms=dict(type='nms', iou_threshold=0.7), min_bbox_size=0),
        rcnn=dict(score_thr=0., nms=dict(type='nms', iou_threshold=0.5),
                  max_per_img=10)))
train_dataloader = dict(dataset=dict(pipeline=[
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomResize', scale=(64, 64), ratio_range=(0.8, 1.2)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackDetInputs')]))
val_dataloader = dict(dataset=dict(pipeline=[
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(64, 64)),
    dict(type='PackDetInputs')]))
""",
}
DYING = """
import os, signal
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class Dying(Hook):
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if [runner.rank, runner.iter] == eval(os.environ.get('DIE', '[]')):
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def config(request, tmp_path, monkeypatch) -> Path:
    """Path of a config in which everything that can be random is."""
    (tmp_path / 'dying.py').write_text(DYING)
    monkeypatch.syspath_prepend(tmp_path)
    base = request.getfixturevalue(request.param)
    path = tmp_path / f'augmented_{base.name}'
    path.write_text(f'_base_ = {str(base)!r}\n{RUNTIME}{AUGMENTED[request.param]}')
    return path


def weights(work_dir: Path) -> dict[str, torch.Tensor]:
    return torch.load(work_dir / 'iter_8.pth')['state_dict']


def assert_equal(one: Path, other: Path) -> None:
    expected, found = weights(one), weights(other)
    assert expected.keys() == found.keys()
    different = [key for key in expected if not torch.equal(expected[key], found[key])]
    assert not different
    first = torch.load(one / 'iter_3.pth')['state_dict']
    assert any(not torch.equal(first[key], expected[key]) for key in first)


@pytest.fixture
def train(tmp_path, config):
    """Train in processes of their own: the exit status, the seconds, the output."""

    def train(*arguments: object, launcher=(sys.executable,), die=()) -> Any:
        environment = dict(CUDA_VISIBLE_DEVICES='', OMP_NUM_THREADS='1', DIE=f'{list(die)}')
        environment['PYTHONPATH'] = f'{TOOLS.parent}:{tmp_path}'
        command = [*launcher, TOOLS / 'train.py', config, *arguments]
        begin = time.monotonic()
        result = subprocess.run(
            [str(word) for word in command],
            cwd=tmp_path,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        return result.returncode, time.monotonic() - begin, result.stdout

    return train


@pytest.fixture
def one_thread():
    """As in the processes of their own: the order of sums is that of the threads."""
    number = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(number)


@pytest.mark.parametrize('config', AUGMENTED, indirect=True)
def test_killed_and_resumed(call, train, config, tmp_path, one_thread):
    iteration = random.randrange(3, ITERATIONS)
    print('killed before iteration', iteration + 1)
    status, _, output = train('--work-dir', 'run', die=[0, iteration])
    assert status == -signal.SIGKILL, output
    assert not (tmp_path / 'run/iter_8.pth').exists()
    call('train', config, '--work-dir', tmp_path / 'run', '--resume')
    call('train', config, '--work-dir', tmp_path / 'whole')
    assert_equal(tmp_path / 'whole', tmp_path / 'run')


@pytest.mark.parametrize('config', ['segmentor'], indirect=True)
def test_one_of_two_processes_killed(train, tmp_path):
    """The other stops with an error; both go on from the same checkpoint."""
    torchrun = sys.executable, '-m', 'torch.distributed.run', '--standalone'
    processes = dict(launcher=[*torchrun, '--nproc_per_node=2'])
    arguments = ('--launcher', 'pytorch', '--work-dir')
    status, seconds, output = train(*arguments, 'run', **processes, die=[1, 5])
    assert status > 0 and 'SIGKILL' in output, output
    assert seconds < 60
    assert not (tmp_path / 'run/iter_6.pth').exists()
    status, _, output = train(*arguments, 'run', '--resume', **processes)
    assert status == 0, output
    status, _, output = train(*arguments, 'whole', **processes)
    assert status == 0, output
    assert_equal(tmp_path / 'whole', tmp_path / 'run')
    first, second = torch.load(tmp_path / 'run/iter_8.pth')['meta']['random_states']
    assert not torch.equal(first['torch'], second['torch'])
