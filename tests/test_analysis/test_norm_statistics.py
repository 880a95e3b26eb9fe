"""Batch norm's statistics of a network that was not trained."""

import pytest
import torch
from mmengine.config import Config
from torch.nn.modules.batchnorm import _BatchNorm

from mmgcnl.analysis import set_norm_statistics
from mmgcnl.apis import init_model
from tests.builders import draw_squares, write_segmentor


@pytest.fixture
def config(tmp_path):
    draw_squares(tmp_path / 'squares')
    path = write_segmentor(tmp_path / 'segmentor.py', tmp_path / 'squares')
    cfg = Config.fromfile(path)
    cfg.model.backbone.init_cfg = None
    cfg.model.backbone.norm_eval = False
    return cfg


def norms(model):
    return [m for m in model.modules() if isinstance(m, _BatchNorm)]


def test_features_are_normalised_afterwards(config):
    model = init_model(config, None, 'cpu')
    momenta = [norm.momentum for norm in norms(model)]
    assert set_norm_statistics(model, config) == len(norms(model)) > 0
    assert not any(m.training for m in model.modules())
    assert [norm.momentum for norm in norms(model)] == momenta
    # The mean of what the first norm sees in the same images is its running mean.
    seen = []
    first = norms(model)[0]
    mean = first.running_mean.clone()
    first.register_forward_pre_hook(lambda norm, args: seen.append(args[0].mean((0, 2, 3))))
    set_norm_statistics(model, config)
    torch.testing.assert_close(torch.stack(seen).mean(0), mean)
    torch.testing.assert_close(first.running_mean, mean)  # and it is repeatable
    assert mean.abs().max() > 0


def test_norms_that_keep_their_statistics_are_left_alone(config):
    config.model.backbone.norm_eval = True
    config.model.decode_head.norm_cfg = dict(type='BN')
    model = init_model(config, None, 'cpu')
    number = set_norm_statistics(model, config)
    assert number == len(norms(model.decode_head))
    for norm in norms(model.backbone):
        assert not norm.running_mean.any()
    for norm in norms(model.decode_head):
        assert norm.running_mean.any()


def test_without_training_data_it_says_what_to_do(config):
    model = init_model(config, None, 'cpu')
    config.pop('train_dataloader')
    with pytest.raises(ValueError, match='no train_dataloader.*: give a checkpoint'):
        set_norm_statistics(model, config)
    assert not model.training
