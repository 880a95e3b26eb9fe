"""Options of --cfg-options that have no effect, and those that have one."""

import sys

import pytest
from mmengine.config import Config

from mmgcnl.utils import cli
from mmgcnl.utils.cfg_options import check_cfg_options


@pytest.fixture
def cfg():
    crop = dict(type='RandomCrop', crop_size=(64, 48))
    dataset = dict(
        type='BaseSegDataset',
        data_root='data/own',
        pipeline=[dict(crop)],
        img_suffix='.png',
    )
    return Config(
        dict(
            default_scope='mmseg',
            crop_size=(64, 48),
            data_root='data/own',
            train_pipeline=[dict(crop)],
            unused=dict(a=1),
            optimizer=dict(type='SGD', lr=0.1),
            model=dict(
                type='EncoderDecoder',
                data_preprocessor=dict(type='SegDataPreProcessor', size=(64, 48)),
                backbone=dict(type='ResNetV1c', depth=18),
                decode_head=dict(type='GCNLHead', channels=16, block=dict(reduction=1)),
                train_cfg=dict(),
                test_cfg=dict(mode='whole'),
            ),
            train_dataloader=dict(batch_size=2, num_workers=0, dataset=dataset),
            val_dataloader=dict(batch_size=1, num_workers=0, dataset=dict(dataset)),
            val_evaluator=dict(type='IoUMetric'),
            train_cfg=dict(type='IterBasedTrainLoop', max_iters=4, val_interval=4),
            optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1)),
            param_scheduler=[dict(type='PolyLR', end=4)],
            default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=4)),
            env_cfg=dict(dist_cfg=dict(backend='gloo')),
            randomness=dict(seed=0),
            auto_scale_lr=dict(base_batch_size=8),
        )
    )


@pytest.mark.parametrize(
    ('option', 'meant'),
    [
        # settings of mmcv 1.x
        ('optimizer.lr', 'optim_wrapper.optimizer.lr'),
        ('optimizer_config.grad_clip', 'optim_wrapper.clip_grad'),
        ('data.samples_per_gpu', 'train_dataloader.batch_size'),
        ('data.train.img_suffix', 'train_dataloader.dataset.img_suffix'),
        ('evaluation.interval', 'train_cfg.val_interval'),
        ('checkpoint_config.interval', 'default_hooks.checkpoint.interval'),
        ('resume_from', 'tools/train.py --resume FILE'),
        ('launcher', '--launcher'),
        ('seed', 'randomness.seed'),
        # misspelt, or in the wrong place
        ('train_dataloder.batch_size', 'train_dataloader.batch_size'),
        (
            'dataloader.batch_size',
            'val_dataloader.batch_size or train_dataloader.batch_size',
        ),
        ('max_iters', 'train_cfg.max_iters'),
        ('lr', 'optim_wrapper.optimizer.lr'),
        ('optim_wraper.optimizer.lr', 'optim_wrapper.optimizer.lr'),
        ('load_form', 'load_from'),
        ('model.decode_head.block.num_heds', 'num_heads'),
        ('model.decode_head.blocks.num_heads', 'block'),
        ('model.decode_head.num_clases', 'num_classes'),
        ('model.backbone.frozen_stage', 'frozen_stages'),
        ('train_dataloader.dataset.image_suffix', 'img_suffix'),
        ('train_dataloader.dataset.pipeline.0.crop_sise', 'crop_size'),
        ('param_scheduler.0.begn', 'begin'),
        ('optim_wrapper.acumulative_counts', 'accumulative_counts'),
        ('model.test_cfg.modes', 'mode'),  # of a setting without a class
        ('default_hooks.checkpiont', 'checkpoint'),
        ('env_cfg.cudnn_bench', 'cudnn_benchmark'),
        ('auto_scale_lr.enabled', 'enable'),
    ],
)
def test_option_without_effect_is_named(cfg, option, meant):
    with pytest.raises(ValueError) as error:
        check_cfg_options(cfg, {option: 1, 'randomness.seed': 1})
    text = str(error.value)
    assert text.startswith('--cfg-options: nothing reads ')
    assert f'(did you mean {meant}' in text
    assert 'randomness' not in text.replace(meant, '')


@pytest.mark.parametrize('value', ['1e-3x', '0.0l', '-1e', '.5.'])
def test_mistyped_number_is_named(cfg, value):
    with pytest.raises(ValueError, match=f'lr={value} is no number, and was 0'):
        check_cfg_options(cfg, {'optim_wrapper.optimizer.lr': value})


def test_variables_of_the_file(cfg):
    """They are not read after the file; the settings that they went into are named."""
    for option, value, settings in (
        (
            'crop_size',
            (32, 32),
            'set model.data_preprocessor.size, train_dataloader.dataset.pipeline.0.'
            'crop_size, val_dataloader.dataset.pipeline.0.crop_size',
        ),
        (
            'data_root',
            'x',
            'set train_dataloader.dataset.data_root, val_dataloader.dataset.data_root',
        ),
        (
            'train_pipeline.0.crop_size',
            (32, 32),
            'set train_dataloader.dataset.pipeline.0.crop_size, ',
        ),
        ('unused.a', 2, 'nothing reads unused.a (a variable of the config'),
        ('custom_imports.imports', ['os'], 'it is read with the file'),
    ):
        with pytest.raises(ValueError) as error:
            check_cfg_options(cfg, {option: value})
        assert settings in str(error.value)


def test_every_option_without_effect_is_named(cfg):
    options = {
        'optimizer': dict(lr=1, momentum=0),
        'data.workers_per_gpu': 0,
        'resume': True,
    }
    with pytest.raises(ValueError) as error:
        check_cfg_options(cfg, options)
    text = str(error.value)
    for name in ('optimizer.lr', 'optimizer.momentum', 'data.workers_per_gpu'):
        assert f'{name} (did you mean ' in text
    assert 'resume' not in text


@pytest.mark.parametrize(
    'option',
    [
        'load_from',
        'resume',
        'work_dir',
        'check_num_classes',
        'submission.a',
        'compile',
        'test_dataloader.dataset.indices',
        'custom_hooks',
        'model.backbone.init_cfg',  # of a base of the class
        'model.backbone.init_cfg.checkpoint',
        'model.backbone.with_cp',
        'model.decode_head.block.num_heads',
        'model.decode_head.block.norm_cfg',
        'model.decode_head.num_classes',
        'model.decode_head.dropout_ratio',
        'model.decode_head.norm_cfg.requires_grad',
        'model.test_cfg.stride',  # of a setting without a class
        'model.data_preprocessor.test_cfg',
        'train_dataloader.persistent_workers',
        'train_dataloader.num_batch_per_epoch',
        'train_dataloader.dataset.indices',
        'train_dataloader.dataset.pipeline.0.cat_max_ratio',
        'optim_wrapper.accumulative_counts',
        'optim_wrapper.clip_grad.max_norm',
        'optim_wrapper.paramwise_cfg.custom_keys.backbone.lr_mult',
        'optim_wrapper.paramwise_cfg.norm_decay_mult',
        'optim_wrapper.constructor',
        'optim_wrapper.optimizer.weight_decay',
        'param_scheduler.0.eta_min',
        'default_hooks.checkpoint.max_keep_ckpts',
        'default_hooks.checkpoint.priority',
        'default_hooks.logger.interval',
        'default_hooks.own.type',
        'env_cfg.cudnn_benchmark',
        'env_cfg.dist_cfg.timeout',
        'auto_scale_lr.enable',
        'val_evaluator.iou_metrics',
    ],
)
def test_option_with_an_effect_is_accepted(cfg, option):
    check_cfg_options(cfg, {option: 1})


def test_type_that_is_an_option_too(cfg):
    """The other options are for this type."""
    kind = {'optim_wrapper.optimizer.type': 'Rprop'}
    with pytest.raises(ValueError, match='etas'):
        check_cfg_options(cfg, {'optim_wrapper.optimizer.etas': (0.5, 1.2)})
    check_cfg_options(cfg, {**kind, 'optim_wrapper.optimizer.etas': (0.5, 1.2)})
    new = {'default_hooks.own.type': 'EMAHook', 'default_hooks.own.momentum': 0.1}
    check_cfg_options(cfg, new)
    with pytest.raises(ValueError, match='default_hooks.own'):
        check_cfg_options(cfg, {'default_hooks.own.momentum': 0.1})


def test_settings_of_custom_modules(cfg, tmp_path, monkeypatch):
    """A module of the user may read settings of its own from the config."""
    (tmp_path / 'own_settings.py').write_text('HOOK = lambda runner: runner.cfg.own_weight')
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match='own_weight'):
        check_cfg_options(cfg, dict(own_weight=2))
    cfg.custom_imports = dict(imports=['own_settings'])
    check_cfg_options(cfg, dict(own_weight=2))
    with pytest.raises(ValueError, match='own_weigth'):
        check_cfg_options(cfg, dict(own_weigth=2))
    assert 'own_settings' not in sys.modules


def test_read_config(tmp_path):
    path = tmp_path / 'config.py'
    path.write_text(
        'train_cfg = dict(by_epoch=False, max_iters=1)\nval_evaluator = [dict(type="A")]\n'
    )
    options = {'train_cfg.max_iters': 5}
    assert cli.read_config(str(path), options).train_cfg.max_iters == 5
    for options, message in (
        ({'train_cfg.max_itres': 5}, r'train_cfg.max_itres \(did you mean max_iters\?\)'),
        ({'val_evaluator.3.type': 'B'}, r'val_evaluator.3 \(a list of 1, numbered from 0'),
        ({'train_cfg.max_iters.a': 'B'}, r'max_iters.a \(train_cfg.max_iters is 1: set it'),
        ({'val_evaluator.a.b': 1}, r'val_evaluator.a \(a list of 1'),
    ):
        with pytest.raises(ValueError, match=f'--cfg-options: .*{message}'):
            cli.read_config(str(path), options)
