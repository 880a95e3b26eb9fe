"""Every config trains two iterations, checkpoints and evaluates, on drawn data.

The model is narrow and the images small; all else is the config's own, and it goes through
tools/train.py. That the models build at full size is test_paper_tables.py's business.
"""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.utils import ManagerMixin

pytestmark = pytest.mark.every_config

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(str(p.relative_to(ROOT)) for p in ROOT.glob('configs/[!_]*/*.py'))
FOLDERS = dict(
    ADE20K_ROOT='ade',
    CAMVID_ROOT='camvid',
    CITYSCAPES_ROOT='cityscapes',
    COCO_ROOT='coco',
    PASCAL_CONTEXT_ROOT='pascal_context',
    PROBE_ROOT='probe',
)
METRICS = dict(
    CocoMetric={'coco/bbox_mAP'},
    IoUMetric={'mIoU', 'aAcc'},
    PanopticQuality={'coco_panoptic/PQ'},
)
CROP = (48, 48)


@pytest.mark.parametrize('path', CONFIGS)
def test_trains_and_evaluates(path, drawn, tmp_path, monkeypatch):
    use(drawn, monkeypatch)
    cfg = Config.fromfile(ROOT / path)
    assert cfg.custom_imports.imports == ['mmgcnl']
    assert cfg.auto_scale_lr.base_batch_size > 0
    reduce(cfg)
    cfg.dump(tmp_path / 'reduced.py')
    run('train', tmp_path / 'reduced.py', '--work-dir', tmp_path)

    checkpoint = torch.load(next(tmp_path.glob('*_[0-9].pth')), weights_only=False)
    assert checkpoint['meta']['iter'] == 2
    if cfg.get('val_cfg') is None:
        return
    metrics = cfg.val_evaluator
    metrics = metrics if isinstance(metrics, list) else [metrics]
    lines = next(tmp_path.glob('*/vis_data/scalars.json')).read_text().splitlines()
    evaluated = set().union(*map(json.loads, lines))
    for metric in metrics:
        expected = METRICS.get(metric.type, set())
        if metric.get('metric') == ['bbox', 'segm']:
            expected = expected | {'coco/segm_mAP'}
        assert evaluated >= expected


def use(drawn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, folder in FOLDERS.items():
        monkeypatch.setenv(variable, str(drawn / folder))
    monkeypatch.setenv('LOCAL_RANK', '0')


def run(name: str, *arguments: object) -> None:
    """main() of tools/<name>.py, as if in a new process."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f'tools/{name}.py')
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    managers = [ManagerMixin]
    for manager in managers:
        managers += manager.__subclasses__()
        manager._instance_dict.clear()
    tool.main([str(argument) for argument in arguments])


def reduce(cfg: Config) -> None:
    """Two iterations of a narrow model on small images."""
    for split in ('train', 'val', 'test'):
        if cfg.get(f'{split}_dataloader'):
            loader = cfg[f'{split}_dataloader']
            loader.update(num_workers=0, persistent_workers=False)
            loader.batch_size = min(loader.batch_size, 2)
            for transform in loader.dataset.pipeline:
                if 'scale' in transform:
                    transform.scale = (64, 64)
                if 'crop_size' in transform:
                    transform.crop_size = CROP
    if 'max_epochs' in cfg.train_cfg:
        cfg.train_cfg.max_epochs = 1
    else:
        cfg.train_cfg.max_iters = 2
        if cfg.get('val_cfg'):
            cfg.train_cfg.val_interval = 2
        cfg.default_hooks.checkpoint.interval = 2
    reduce_model(cfg.model)


def reduce_model(model: Any) -> None:
    backbone = model.backbone
    if 'ConvNet' in backbone.type:
        return
    backbone.init_cfg = None
    if backbone.type == 'HRNet':
        widths = [4, 8, 16, 32]
        for i in range(1, 5):
            stage = backbone.extra[f'stage{i}']
            stage.update(num_modules=1, num_blocks=(1,) * i, num_channels=tuple(widths[:i]))
    else:
        widths = [8, 16, 32, 64] if backbone.depth < 50 else [32, 64, 128, 256]
        backbone.update(base_channels=8, stem_channels=8)
    if model.type == 'EncoderDecoder':
        model.decode_head.update(in_channels=widths[-1], channels=64)
        model.data_preprocessor.size = CROP
        if model.test_cfg.mode == 'slide':
            model.test_cfg.update(crop_size=CROP, stride=(32, 32))
        return
    neck = model.neck[0] if isinstance(model.neck, list) else model.neck
    neck.in_channels = widths
    if 'roi_head' not in model:
        model.test_cfg.update(score_thr=0.0, max_per_img=5)
        return
    model.test_cfg.rcnn.update(score_thr=0.0, max_per_img=5)
    heads = model.roi_head.bbox_head
    for head in heads if isinstance(heads, list) else [heads]:
        head.fc_out_channels = 16
    if 'mask_head' in model.roi_head:
        model.roi_head.mask_head.update(num_convs=1, conv_out_channels=16)
    if 'semantic_head' in model:
        model.semantic_head.inner_channels = 32
