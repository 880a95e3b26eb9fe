"""A model with dropout on data with random noise: seconds to train, all of it random."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, HOOKS, METRICS, MODELS
from torch import nn
from torch.utils.data import Dataset

from mmgcnl.engine import Runner
from tests.builders import draw_squares, forget_instances, write_segmentor


@MODELS.register_module()
class NoisyNet(BaseModel):
    def __init__(self, spoil: tuple = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1))
        self.iteration = 0
        self.spoil = spoil

    def forward(self, inputs, mode='tensor'):
        inputs = torch.stack(inputs) if isinstance(inputs, list) else inputs
        output = self.layers(inputs)
        if mode != 'loss':
            return [output]
        self.iteration += 1
        loss = (output - inputs.mean()).square().mean()
        if self.spoil and self.iteration == self.spoil[0]:
            return dict(loss_a=loss, loss_b=loss * self.spoil[1])
        return dict(loss_a=loss)


@DATASETS.register_module()
class Noise(Dataset):
    """10 samples, with noise of each generator that augmentations use."""

    metainfo = dict(classes=('a',))

    def __len__(self):
        return 10

    def __getitem__(self, index):
        noise = random.random() + np.random.rand() + torch.rand(())
        return dict(inputs=torch.full((4,), float(index)) / 10 + noise)


@METRICS.register_module()
class Falling(BaseMetric):
    """Draws random numbers, and a score that is best first."""

    score = 1.0

    def process(self, data_batch, data_samples):
        self.results.append(random.random() + np.random.rand() + torch.rand(()).item())

    def compute_metrics(self, results):
        Falling.score -= 0.1
        return dict(score=Falling.score)


@METRICS.register_module()
class Output(BaseMetric):
    """The mean output of the model, with some noise."""

    def process(self, data_batch, data_samples):
        noise = random.random() + np.random.rand() + torch.rand(()).item()
        self.results.append(data_samples[0].mean().item() + noise / 100)

    def compute_metrics(self, results):
        return dict(score=float(np.mean(results)))


@HOOKS.register_module()
class Stop(Hook):
    """Raises in an iteration or a validation, which leaves the work dir as a kill does."""

    priority = 'VERY_LOW'  # after a checkpoint is saved

    def __init__(self, at: int, stage: str = 'before_train_iter') -> None:
        self.at = at
        self.stage = stage

    def _stop(self, runner, stage):
        if (runner.iter, stage) == (self.at, self.stage):
            raise InterruptedError

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self._stop(runner, 'before_train_iter')

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self._stop(runner, 'after_val_iter')

    def after_val_epoch(self, runner, metrics=None):
        self._stop(runner, 'after_val_epoch')


EPOCHS = dict(type='EpochBasedTrainLoop', max_epochs=3, val_interval=1)
ITERATIONS = dict(type='IterBasedTrainLoop', max_iters=15, val_interval=5)


@pytest.fixture
def cfg(tmp_path: Path) -> Config:
    """A segmentor on the squares in tmp_path / 'squares', without weights to download."""
    draw_squares(tmp_path / 'squares')
    cfg = Config.fromfile(write_segmentor(tmp_path / 'config.py', tmp_path / 'squares'))
    cfg.model.backbone.init_cfg = None
    cfg.work_dir = str(tmp_path / 'work')
    forget_instances()
    return cfg


@pytest.fixture
def build() -> Callable[..., Runner]:
    """Build a Runner for 15 iterations: build(work_dir, by_epoch, **of the config)."""
    return build_runner


def build_runner(work_dir: Path, by_epoch: bool = False, **changes: Any) -> Runner:
    forget_instances()
    config: dict[str, Any] = dict(
        model=dict(type='NoisyNet'),
        work_dir=str(work_dir),
        train_dataloader=dict(
            batch_size=2,
            num_workers=0,
            dataset=dict(type='Noise'),
            sampler=dict(type='DefaultSampler' if by_epoch else 'InfiniteSampler'),
        ),
        val_dataloader=dict(
            batch_size=2,
            num_workers=0,
            dataset=dict(type='Noise'),
            sampler=dict(type='DefaultSampler', shuffle=False),
        ),
        val_cfg=dict(),
        val_evaluator=dict(type='Falling'),
        train_cfg=EPOCHS if by_epoch else ITERATIONS,
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.005, momentum=0.9)),
        param_scheduler=[dict(type='ExponentialLR', gamma=0.9, by_epoch=by_epoch)],
        default_hooks=dict(
            checkpoint=dict(type='CheckpointHook', by_epoch=by_epoch, interval=1),
        ),
        log_level='WARNING',
    )
    config.update(changes)
    return Runner.from_cfg(config)
