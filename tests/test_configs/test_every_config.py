"""Every config trains two iterations, checkpoints and evaluates, on drawn data.

The model is narrow and the images small; all else is the config's own, and it goes through
tools/train.py. That the models build at full size is test_paper_tables.py's business.
"""

import json
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.every_config

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(str(p.relative_to(ROOT)) for p in ROOT.glob('configs/[!_]*/*.py'))
METRICS = dict(
    CocoMetric={'coco/bbox_mAP'},
    IoUMetric={'mIoU', 'aAcc'},
    PanopticQuality={'coco_panoptic/PQ'},
)


@pytest.mark.parametrize('path', CONFIGS)
def test_trains_and_evaluates(path, reduced, run_tool, tmp_path):
    cfg = reduced(path)
    assert cfg.custom_imports.imports == ['mmgcnl']
    assert cfg.auto_scale_lr.base_batch_size > 0
    cfg.dump(tmp_path / 'reduced.py')
    run_tool('train', tmp_path / 'reduced.py', '--work-dir', tmp_path)

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
