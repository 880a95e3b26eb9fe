from unittest.mock import patch

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS
from torch import nn
from torch.utils.data import Dataset

from mmgcnl.engine import Runner


@MODELS.register_module()
class OneConv(BaseModel):
    def __init__(self, pretrained=None, broken=False):
        super().__init__(
            init_cfg=pretrained and dict(type='Pretrained', checkpoint=pretrained)
        )
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
