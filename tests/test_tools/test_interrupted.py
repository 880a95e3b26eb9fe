"""kill -9, then --resume: the weights of a training that was left alone."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config

from tests.builders import CUSTOM_IMPORTS, ROOT, write_config

pytestmark = pytest.mark.slow
ITERATIONS = 8
# Chance in everything: dropout, augmentation and, in the detector, RoI sampling.
RUNTIME = dict(
    custom_imports=dict(CUSTOM_IMPORTS, imports=['mmgcnl', 'tests.faults']),
    custom_hooks=[dict(type='Faults')],
    default_hooks=dict(checkpoint=dict(interval=3)),
    optim_wrapper=dict(optimizer=dict(lr=0.001), clip_grad=dict(max_norm=10)),
    train_cfg=dict(max_iters=ITERATIONS, val_interval=4),
)


def pipeline(library: str, *transforms: dict, **annotations: Any) -> dict[str, Any]:
    load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', **annotations)]
    pack = dict(type=f'Pack{library}Inputs')
    return dict(dataset=dict(pipeline=[*load, *transforms, pack]))


def augmented_segmentor() -> dict[str, Any]:
    return dict(
        model=dict(
            backbone=dict(init_cfg=None),
            decode_head=dict(dropout_ratio=0.1, block=dict(attn_drop_rate=0.1)),
        ),
        train_dataloader=pipeline(
            'Seg',
            dict(type='RandomResize', scale=(40, 40), ratio_range=(0.9, 1.5)),
            dict(type='RandomCrop', crop_size=(32, 32)),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PhotoMetricDistortion'),
        ),
        val_dataloader=pipeline('Seg'),
    )


def augmented_detector(folder: Path) -> dict[str, Any]:
    """A small Faster R-CNN with EBFPN."""
    changes = dict(
        backbone=dict(depth=18, base_channels=8, init_cfg=None),
        neck=[
            dict(type='FPN', in_channels=[8, 16, 32, 64], out_channels=16, num_outs=5),
            dict(type='EBFPN', in_channels=16, num_levels=5),
        ],
        rpn_head=dict(in_channels=16, feat_channels=16),
        roi_head=dict(
            bbox_roi_extractor=dict(out_channels=16),
            bbox_head=dict(in_channels=16, fc_out_channels=16, num_classes=1),
        ),
        train_cfg=dict(rpn=dict(sampler=dict(num=16)), rcnn=dict(sampler=dict(num=8))),
        test_cfg=dict(rpn=dict(nms_pre=50, max_per_img=50), rcnn=dict(max_per_img=10)),
    )
    base = 'mmdet::_base_/models/faster-rcnn_r50_fpn.py'
    model = Config.fromfile(write_config(folder / 'model.py', dict(model=changes), base))
    resize = dict(type='RandomResize', scale=(64, 64), ratio_range=(0.8, 1.2))
    flip = dict(type='RandomFlip', prob=0.5)
    distort = dict(type='PhotoMetricDistortion')
    return dict(
        model=dict(model.model.to_dict(), _delete_=True),
        train_dataloader=pipeline('Det', resize, flip, distort, with_bbox=True),
        val_dataloader=pipeline('Det', dict(type='Resize', scale=(64, 64)), with_bbox=True),
    )


@pytest.fixture(params=['segmentor', 'detector'])
def config(request, tmp_path) -> Path:
    """Path of a config in which everything that can be random is."""
    base = request.getfixturevalue(request.param)
    segmentor = request.param == 'segmentor'
    settings = augmented_segmentor() if segmentor else augmented_detector(tmp_path)
    return write_config(tmp_path / 'augmented.py', {**RUNTIME, **settings}, str(base))


def weights(work_dir: Path, iteration: int = ITERATIONS) -> dict[str, torch.Tensor]:
    return torch.load(work_dir / f'iter_{iteration}.pth', weights_only=False)['state_dict']


@pytest.fixture
def one_thread():
    """As in a process of its own: the order of sums is that of the threads."""
    number = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(number)


def test_killed_and_resumed(call, config, tmp_path, one_thread):
    iteration = random.Random(config.parent.name).randrange(3, ITERATIONS)
    environment = dict(CUDA_VISIBLE_DEVICES='', OMP_NUM_THREADS='1', PYTHONPATH=str(ROOT))
    environment['FAULTS'] = json.dumps([(0, 0, iteration, 'SIGKILL')])
    run, whole = tmp_path / 'run', tmp_path / 'whole'
    killed = subprocess.run(
        [sys.executable, ROOT / 'tools/train.py', config, '--work-dir', run],
        env={**os.environ, **environment},
        timeout=300,
    )
    assert killed.returncode == -signal.SIGKILL
    assert not (run / f'iter_{ITERATIONS}.pth').exists()
    call('train', config, '--work-dir', run, '--resume')
    call('train', config, '--work-dir', whole)
    expected, found = weights(whole), weights(run)
    assert expected.keys() == found.keys()
    assert not [key for key in expected if not torch.equal(expected[key], found[key])]
    assert any(not torch.equal(weights(whole, 3)[key], expected[key]) for key in expected)
