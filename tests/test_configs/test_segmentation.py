"""The segmentation configs: what costs do not show of the paper's network."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS

ROOT = Path(__file__).parents[2]
FOLDERS = ('ade20k', 'camvid', 'cityscapes', 'pascal_context', 'resnet_plugin')
CONFIGS = {
    path.stem: path
    for folder in FOLDERS
    for path in sorted((ROOT / 'configs' / folder).glob('*.py'))
    if '-d8' in path.stem
}


@pytest.mark.parametrize('name', CONFIGS)
def test_multi_grid(name):
    """The last stage has the rates of DeepLabv3 at an output stride of 8."""
    cfg = Config.fromfile(CONFIGS[name])
    init_default_scope('mmseg')
    backbone = MODELS.build(dict(cfg.model.backbone, init_cfg=None))
    dilations = {}
    for i in range(1, 5):
        blocks = getattr(backbone, f'layer{i}')
        dilations[i] = [
            max(conv.dilation[0] for key, conv in block.named_modules() if 'conv' in key)
            for block in blocks
        ]
    depth = cfg.model.backbone.depth
    assert dilations[4] == ([4, 8] if depth == 18 else [4, 8, 16])
    # mmseg halves the rate of the first block of a stage of rate 2.
    assert dilations[3] == ([1, 2] if depth == 18 else [1, 2, 2, 2, 2, 2])
    assert {*dilations[1], *dilations[2]} == {1}


@pytest.mark.parametrize('name', CONFIGS)
def test_optimiser(name):
    cfg = Config.fromfile(CONFIGS[name])
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.momentum) == ('SGD', 0.9)
    assert optimizer.weight_decay == (1e-4 if 'pascal-context' in name else 5e-4)
    if cfg.model.backbone.depth == 50:
        assert optimizer.lr == (0.01 if 'ade20k' in name else 0.001)
    assert 'auxiliary_head' not in cfg.model


@pytest.mark.parametrize('name', CONFIGS)
def test_all_rows_start_as_mmcvs_block(name):
    cfg = Config.fromfile(CONFIGS[name])
    init_default_scope('mmseg')
    if cfg.model.decode_head.type == 'GCNLHead':
        assert MODELS.build(cfg.model.decode_head).block.init == 'normal'


@pytest.mark.parametrize(
    'folder, stem',
    [
        ('ade20k', 'r50-d8_4xb2-160k_ade20k-512x512'),
        ('camvid', 'r18-d8_1xb4-500_camvid-180x240'),
        ('camvid', 'r50-d8_1xb8-20k_camvid-360x480'),
        ('cityscapes', 'r50-d8_4xb2-80k_cityscapes-769x769'),
        ('pascal_context', 'r50-d8_4xb2-80k_pascal-context-59-480x480'),
    ],
)
def test_compared_configs_differ_in_the_block_alone(folder, stem):
    fcn, nl, gcnl = (
        Config.fromfile(ROOT / f'configs/{folder}/{kind}_{stem}.py')
        for kind in ('fcn', 'nl', 'gcnl')
    )
    assert fcn.model.decode_head.type == 'FCNHead'
    for cfg in (nl, gcnl):
        assert cfg.model.decode_head.type == 'GCNLHead'
        del cfg.model.decode_head['block']
        cfg.model.decode_head.type = 'FCNHead'
        assert cfg.to_dict() == fcn.to_dict()


def test_time_augmentation(reduced, run_tool, tmp_path):
    cfg = reduced('configs/ade20k/nl_r50-d8_4xb2-160k_ade20k-512x512.py')
    cfg.dump(tmp_path / 'small.py')
    init_default_scope('mmseg')
    model = MODELS.build(cfg.model)
    torch.save(dict(state_dict=model.state_dict(), meta={}), tmp_path / 'small.pth')
    model_files = tmp_path / 'small.py', tmp_path / 'small.pth'
    run_tool('test', *model_files, '--work-dir', tmp_path, '--tta')
    saved = Config.fromfile(next(tmp_path.glob('*/vis_data/config.py')))
    assert saved.model.type == 'SegTTAModel'


def test_trainval(drawn, reduced, run_tool, tmp_path, capsys):
    """--trainval trains on the images of both splits; other configs refuse it."""
    cfg = reduced('configs/cityscapes/nl_r50-d8_4xb2-80k_cityscapes-769x769.py')
    cfg.dump(tmp_path / 'small.py')
    run_tool('train', tmp_path / 'small.py', '--work-dir', tmp_path, '--trainval')
    saved = Config.fromfile(next(tmp_path.glob('*/vis_data/config.py')))
    splits = [
        dataset.data_prefix.img_path for dataset in saved.train_dataloader.dataset.datasets
    ]
    assert splits == ['leftImg8bit/train', 'leftImg8bit/val']
    parts = saved.train_dataloader.dataset.datasets
    assert parts[0].pipeline == parts[1].pipeline == cfg.train_dataloader.dataset.pipeline

    reduced('configs/ade20k/nl_r50-d8_4xb2-160k_ade20k-512x512.py').dump(
        tmp_path / 'ade.py'
    )
    with pytest.raises(SystemExit, match='2'):
        run_tool('train', tmp_path / 'ade.py', '--trainval')
    assert 'ade.py has no `trainval`' in capsys.readouterr().err
