import logging
from unittest.mock import patch

import pytest
import torch
from mmengine import hooks as mmengine_hooks
from mmengine import runner as mmengine_runner
from mmengine.config import Config
from mmengine.model import BaseModel, PretrainedInit
from mmengine.registry import DATASETS, HOOKS, LOOPS, MODELS
from torch import nn
from torch.utils.data import DataLoader, Dataset

from mmgcnl.engine import Runner, hooks, loops
from tests.builders import skip_without_classes


@MODELS.register_module()
class OneConv(BaseModel):
    def __init__(self, pretrained=None, broken=False, init_cfg=None):
        if pretrained:
            init_cfg = dict(type='Pretrained', checkpoint=pretrained)
        super().__init__(init_cfg=init_cfg)
        self.conv = nn.Conv2d(1, 1, 1)
        self.broken = broken

    def init_weights(self):
        if self.broken:
            raise OSError('disk on fire')
        super().init_weights()

    def forward(self, inputs, mode='tensor'):
        return dict(loss=self.conv(inputs).sum())


@DATASETS.register_module()
class Ones(Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        return dict(inputs=torch.ones(1, 1, 1))


def make_runner(tmp_path, **model):
    config = dict(
        model=dict(type='OneConv', **model),
        work_dir=str(tmp_path),
        train_dataloader=dict(
            batch_size=1,
            dataset=dict(type='Ones'),
            sampler=dict(type='DefaultSampler', shuffle=False),
        ),
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        log_level='ERROR',
    )
    return Runner.from_cfg(Config(config))


def test_without_a_config(tmp_path):
    """As mmengine's documentation builds a Runner."""
    loader = DataLoader(Ones(), batch_size=1)
    Runner(
        model=OneConv(),
        work_dir=str(tmp_path),
        train_dataloader=loader,
        train_cfg=dict(by_epoch=False, max_iters=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
    ).train()
    assert (tmp_path / 'last_checkpoint').is_file()


def test_what_the_layers_log_is_in_the_log(tmp_path, capsys):
    for name in ('first', 'second'):
        Runner(model=OneConv(), work_dir=str(tmp_path / name), experiment_name=name)
        capsys.readouterr()
        logging.getLogger('mmgcnl').warning('kernels are compiled for the %s', name)
        (log,) = (tmp_path / name).glob('*/*.log')
        assert log.read_text().count(f'kernels are compiled for the {name}') == 1
        assert capsys.readouterr().out.count('kernels are compiled') == 1


def train(tmp_path, **model):
    make_runner(tmp_path, **model).train()


def test_missing_weights_name_the_key_of_their_config(tmp_path):
    with pytest.raises(RuntimeError) as error:
        train(tmp_path, pretrained='no_such.pth')
    message = str(error.value)
    assert 'model.pretrained: no_such.pth' in message
    assert '--cfg-options model.pretrained=None,' in message
    assert '--cfg-options model.pretrained=/path/to/weights.pth' in message
    assert isinstance(error.value.__cause__, FileNotFoundError)


def test_missing_weights_of_a_class(tmp_path):
    skip_without_classes()
    weights = dict(type=PretrainedInit, checkpoint='no_such.pth')
    with pytest.raises(RuntimeError, match='--cfg-options model.init_cfg=None,'):
        train(tmp_path, init_cfg=weights)


def test_other_errors_are_left_alone(tmp_path):
    with pytest.raises(OSError, match='disk on fire'):
        train(tmp_path, broken=True)


@pytest.mark.parametrize(
    'base, counts, expected',
    [
        (1, 1, None),
        (2, 2, None),
        (4, 1, 'Batch size 1 (1 process x 1) instead of the 4'),
        (4, 2, 'keep it by --cfg-options train_dataloader.batch_size=2'),
        (3, 2, 'or change the number of processes'),
    ],
)
def test_other_batch_size_is_said(tmp_path, base, counts, expected):
    """One process of batch size 1, with gradients of `counts` iterations accumulated."""
    runner = make_runner(tmp_path)
    runner.cfg.optim_wrapper.accumulative_counts = counts
    runner.optim_wrapper = runner.build_optim_wrapper(runner.cfg.optim_wrapper)
    with patch.object(runner.logger, 'warning') as warning:
        runner.scale_lr(runner.optim_wrapper, dict(enable=False, base_batch_size=base))
    if expected is None:
        warning.assert_not_called()
    else:
        (message,) = warning.call_args.args
        assert expected in message
        assert '--auto-scale-lr' in message
        assert '\n' not in message


def test_scaled_learning_rate_is_not_warned_about(tmp_path):
    runner = make_runner(tmp_path)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.cfg.optim_wrapper)
    with patch.object(runner.logger, 'warning') as warning:
        runner.scale_lr(runner.optim_wrapper, dict(enable=True, base_batch_size=4))
    warning.assert_not_called()
    assert runner.optim_wrapper.get_lr()['lr'] == [0.1 / 4]


def ways_to_name(module, name):
    """A class of mmengine as old, inherited, dumped and new-style configs name it."""
    kind = getattr(module, name)
    return name, f'mmengine.{name}', f'{kind.__module__}.{name}', kind


LOOP_OPTIONS = dict(
    EpochBasedTrainLoop=dict(max_epochs=1), IterBasedTrainLoop=dict(max_iters=1)
)
HOOK_OPTIONS = dict(CheckpointHook={}, EarlyStoppingHook=dict(monitor='a', rule='less'))


@pytest.mark.parametrize('way', range(4))
def test_ours_replace_those_of_mmengine(tmp_path, way):
    runner = make_runner(tmp_path)
    for name, options in LOOP_OPTIONS.items():
        kind = ways_to_name(mmengine_runner, name)[way]
        loop = runner.build_train_loop(dict(type=kind, **options))
        assert type(loop) is getattr(loops, name)
    for name, options in HOOK_OPTIONS.items():
        runner._hooks.clear()
        runner.register_hook(dict(type=ways_to_name(mmengine_hooks, name)[way], **options))
        assert type(runner.hooks[0]) is getattr(hooks, name)


def test_ours_replace_no_other_classes_of_these_names(tmp_path, monkeypatch):
    runner = make_runner(tmp_path)
    hook = type('CheckpointHook', (mmengine_hooks.Hook,), {})
    loop = type('IterBasedTrainLoop', (mmengine_runner.IterBasedTrainLoop,), {})
    monkeypatch.setitem(HOOKS._module_dict, 'CheckpointHook', hook)
    monkeypatch.setitem(LOOPS._module_dict, 'IterBasedTrainLoop', loop)
    for hook_type, loop_type in ((hook, loop), ('CheckpointHook', 'IterBasedTrainLoop')):
        runner._hooks.clear()
        runner.register_hook(dict(type=hook_type))
        assert type(runner.hooks[0]) is hook
        assert type(runner.build_train_loop(dict(type=loop_type, max_iters=1))) is loop
