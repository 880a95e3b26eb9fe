import pytest
import torch
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


def train(tmp_path, **model):
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
    Runner.from_cfg(config).train()


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
