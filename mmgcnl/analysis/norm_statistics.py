"""Statistics of batch norm for a network that has not been trained."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.model import BaseModel
from torch.nn.modules.batchnorm import _BatchNorm

from mmgcnl.datasets import build_dataloader

_NUM_IMAGES = 32


def set_norm_statistics(model: BaseModel, cfg: Config) -> int:
    """Set the statistics of batch norm to those of some training images.

    A network that was never trained normalises by the initial mean 0 and variance 1 in
    eval mode, so that its features, and the attention made from them, are not those at
    which a training starts. Layers that keep their statistics in training, as those of a
    backbone with ``norm_eval``, are left alone; torch's ``update_bn`` would set them, too.

    Args:
        model: From :func:`mmgcnl.apis.init_model`. It is in eval mode afterwards.
        cfg: Its config. The images are drawn at random, always the same, from the
            training data set and pass through its pipeline, in batches of the config.

    Returns:
        Number of layers that were set.

    Raises:
        ValueError: There is such a layer, and the config has no ``train_dataloader``.
        RuntimeError: The training data cannot be loaded.
    """
    model.train()
    momenta = {
        module: module.momentum
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.training and module.track_running_stats
    }
    try:
        if momenta:
            _average(model, cfg, list(momenta))
    finally:
        for norm, momentum in momenta.items():
            norm.momentum = momentum
        model.eval()
    return len(momenta)


def _average(model: BaseModel, cfg: Config, norms: list[_BatchNorm]) -> None:
    if cfg.get('train_dataloader') is None:
        raise ValueError(
            'the config has no train_dataloader, from which the statistics of batch norm '
            'are set in a network that is not trained: give a checkpoint'
        )
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over the batches
    loader = {**cfg.train_dataloader, 'num_workers': 0, 'persistent_workers': False}
    dataset: Any = build_dataloader(loader).dataset
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for indices in order[:_NUM_IMAGES].split(max(cfg.train_dataloader.batch_size, 2)):
            if len(indices) < min(2, len(dataset)):
                continue  # one image alone may have one value per channel
            data = pseudo_collate([dataset[i] for i in indices.tolist()])
            model(**model.data_preprocessor(data, True), mode='loss')
