"""The segmentation configs: what costs do not show of the paper's network."""

from pathlib import Path

import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS, init_default_scope
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


TABLES = yaml.safe_load((ROOT / 'configs/paper_tables.yml').read_text())
ROWS = sorted(
    {
        row['config']
        for table in TABLES
        for row in table['rows']
        if row['config'].split('/')[1] in FOLDERS
    }
)
#: Learning rate of the backbone, iterations, (longer) side, crop: from the paper's text and
#: PyTorch-Encoding's trainer.
RECIPES = {
    'pascal_context': (0.001, 50_000, (520, 520), (480, 480)),
    'ade20k': (0.01, 303_000, (520, 520), (480, 480)),
    'cityscapes': (0.001, 89_000, (2049, 1025), (769, 769)),
}


@pytest.mark.parametrize('config', ROWS)
def test_recipe_of_the_papers_rows(config):
    """Read from what is built: parameter groups, schedule, pipelines, the block."""
    lr, iterations, scale, crop = RECIPES[config.split('/')[1]]
    cfg = Config.fromfile(ROOT / config)
    init_default_scope('mmseg')
    cfg.model.backbone.init_cfg = None
    model = MODELS.build(cfg.model)
    model.init_weights()
    assert not model.with_auxiliary_head

    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    assert type(optimizer) is torch.optim.SGD
    in_head = {id(p) for p in model.decode_head.parameters()}
    rates = {True: 10 * lr, False: lr}
    for group in optimizer.param_groups:
        (parameter,) = group['params']
        assert group['lr'] == pytest.approx(rates[id(parameter) in in_head])
        assert (group['weight_decay'], group['momentum']) == (1e-4, 0.9)
    assert {id(p) in in_head for g in optimizer.param_groups for p in g['params']} == {
        True,
        False,
    }

    (schedule,) = cfg.param_scheduler
    schedule = PARAM_SCHEDULERS.build(dict(schedule, optimizer=optimizer))
    assert (type(schedule).__name__, schedule.power, schedule.eta_min) == ('PolyLR', 0.9, 0)
    assert (schedule.begin, schedule.end, schedule.by_epoch) == (0, iterations, False)
    assert cfg.train_cfg.max_iters == iterations
    assert cfg.train_dataloader.batch_size * 4 == cfg.auto_scale_lr.base_batch_size == 8

    *steps, pack = Compose(cfg.train_dataloader.dataset.pipeline).transforms
    names = [
        'LoadImageFromFile',
        'LoadAnnotations',
        'RandomResize',
        'RandomCrop',
        'RandomFlip',
    ]
    assert [type(step).__name__ for step in steps] == names
    _, _, resize, cropping, flip = steps
    assert (resize.scale, resize.ratio_range) == (scale, (0.5, 2.0))
    assert resize.resize.keep_ratio
    assert (cropping.crop_size, cropping.cat_max_ratio, flip.prob) == (crop, 1.0, 0.5)

    test = Compose(cfg.test_dataloader.dataset.pipeline).transforms
    (resize,) = (step for step in test if type(step).__name__ == 'Resize')
    assert (resize.scale, resize.keep_ratio) == (scale, True)
    assert (cfg.model.test_cfg.mode, cfg.model.test_cfg.crop_size) == ('slide', crop)

    if cfg.model.decode_head.type == 'GCNLHead':
        block = model.decode_head.block
        assert block.init == 'torch'
        assert 0 < block.query.bias.abs().max() <= 512**-0.5
        assert not block.norm.weight.any()


@pytest.mark.parametrize(
    'folder, stem',
    [
        ('ade20k', 'r50-d8_4xb2-303k_ade20k-480x480'),
        ('camvid', 'r18-d8_1xb4-500_camvid-180x240'),
        ('camvid', 'r50-d8_1xb8-20k_camvid-360x480'),
        ('cityscapes', 'r50-d8_4xb2-89k_cityscapes-769x769'),
        ('pascal_context', 'r50-d8_4xb2-50k_pascal-context-59-480x480'),
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
    cfg = reduced('configs/ade20k/nl_r50-d8_4xb2-303k_ade20k-480x480.py')
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
    cfg = reduced('configs/cityscapes/nl_r50-d8_4xb2-89k_cityscapes-769x769.py')
    cfg.dump(tmp_path / 'small.py')
    run_tool('train', tmp_path / 'small.py', '--work-dir', tmp_path, '--trainval')
    saved = Config.fromfile(next(tmp_path.glob('*/vis_data/config.py')))
    splits = [
        dataset.data_prefix.img_path for dataset in saved.train_dataloader.dataset.datasets
    ]
    assert splits == ['leftImg8bit/train', 'leftImg8bit/val']
    parts = saved.train_dataloader.dataset.datasets
    assert parts[0].pipeline == parts[1].pipeline == cfg.train_dataloader.dataset.pipeline

    reduced('configs/ade20k/nl_r50-d8_4xb2-303k_ade20k-480x480.py').dump(
        tmp_path / 'ade.py'
    )
    with pytest.raises(SystemExit, match='2'):
        run_tool('train', tmp_path / 'ade.py', '--trainval')
    assert 'ade.py has no `trainval`' in capsys.readouterr().err
