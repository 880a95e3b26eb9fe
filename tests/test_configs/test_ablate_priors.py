"""tools/analysis_tools/ablate_priors.py on models of every task, on drawn data."""

import json

import pytest
import torch
from torch import nn

from mmgcnl.analysis import ABLATIONS
from mmgcnl.apis import init_model


@pytest.mark.parametrize(
    ('path', 'block', 'metric', 'ablations'),
    [
        (
            'camvid/gcnl_r18-d8_1xb4-500_camvid-180x240.py',
            'decode_head.block',
            'mIoU',
            list(ABLATIONS),
        ),
        (
            'camvid/nl_r18-d8_1xb4-2k_camvid-trainval-180x240.py',
            'decode_head.nl_block',
            'mIoU',
            ['attention uniform'],
        ),
        (
            'ebfpn/mask-rcnn_r50_fpn_ebfpn_1x_coco.py',
            'neck.1.refine',
            'coco/segm_mAP',
            list(ABLATIONS),
        ),
        (
            'ebfpn/mask-rcnn_r50_fpn_bfpn_1x_coco.py',
            'neck.1.refine',
            'coco/bbox_mAP',
            ['attention uniform'],
        ),
        (
            'panoptic_fpn/panoptic-fpn_r50_fpn_ebfpn_1x_coco.py',
            'neck.1.refine',
            'coco_panoptic/PQ',
            list(ABLATIONS),
        ),
    ],
    ids=lambda x: x.split('/')[-1] if isinstance(x, str) and x.endswith('.py') else None,
)
def test_every_task(reduced, run_tool, tmp_path, capsys, path, block, metric, ablations):
    cfg = reduced(f'configs/{path}')
    cfg.dump(tmp_path / 'small.py')
    model = init_model(cfg, None)
    for parameter in model.parameters():
        if parameter.dim() > 1:  # the block's output layer, too
            nn.init.xavier_normal_(parameter)
    torch.save(dict(state_dict=model.state_dict(), meta={}), tmp_path / 'small.pth')
    out = tmp_path / 'new/ablation.json'
    run_tool(
        'analysis_tools/ablate_priors',
        tmp_path / 'small.py',
        tmp_path / 'small.pth',
        '--json',
        out,
    )
    report = json.loads(out.read_text())
    assert metric in report['metrics']
    assert [entry['ablation'] for entry in report['ablations']] == ablations
    for entry in report['ablations']:
        assert entry['block'] == block
        assert entry['metrics'].keys() == report['metrics'].keys()
    printed = capsys.readouterr().out
    for ablation in ablations:
        assert (
            f'| {ablation}' in printed and f'{ablation}: {ABLATIONS[ablation]}' in printed
        )


def test_model_without_blocks(reduced, run_tool, tmp_path, capsys):
    cfg = reduced('configs/camvid/fcn_r18-d8_1xb4-500_camvid-180x240.py')
    cfg.dump(tmp_path / 'small.py')
    model = init_model(cfg, None)
    torch.save(dict(state_dict=model.state_dict(), meta={}), tmp_path / 'small.pth')
    with pytest.raises(SystemExit) as stopped:
        run_tool(
            'analysis_tools/ablate_priors', tmp_path / 'small.py', tmp_path / 'small.pth'
        )
    assert stopped.value.code == 2
    assert 'has no non-local block' in capsys.readouterr().err
