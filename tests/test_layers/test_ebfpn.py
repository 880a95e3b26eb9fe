"""The neck in plain PyTorch; test_models/test_ebfpn.py compares it with mmdet's BFP."""

import pytest
import torch
from torch import nn

from mmgcnl.layers import EBFPN, GCNonLocal2d


def pyramid(channels, *sizes):
    return [torch.randn(2, channels, *size) for size in sizes]


def test_mean_is_refined_and_added():
    levels = pyramid(8, (8, 12), (4, 6), (2, 3))
    neck = EBFPN(8, 3, 1, refine=nn.Conv2d(8, 8, 1))
    mean = (
        nn.functional.adaptive_max_pool2d(levels[0], (4, 6))
        + levels[1]
        + nn.functional.interpolate(levels[2], (4, 6))
    ) / 3
    refined = neck.refine(mean)
    expected = [
        levels[0] + nn.functional.interpolate(refined, (8, 12)),
        levels[1] + refined,
        levels[2] + nn.functional.adaptive_max_pool2d(refined, (2, 3)),
    ]
    for level, truth in zip(neck(levels), expected, strict=True):
        torch.testing.assert_close(level, truth)


def test_registered_neck_is_the_same():
    for package in ('mmengine', 'mmcv'):
        pytest.importorskip(package)
    from mmgcnl import EBFPN as Registered

    refine = dict(reduction=1, num_heads=2, kv_stride=2)
    registered = Registered(8, 3, 1, refine=dict(type='GCNonLocal2d', **refine)).eval()
    neck = EBFPN(8, 3, 1, refine=GCNonLocal2d(8, **refine)).eval()
    for parameter in registered.parameters():
        nn.init.normal_(parameter, std=0.3)
    neck.load_state_dict(registered.state_dict())
    levels = pyramid(8, (8, 12), (4, 6), (2, 3))
    for level, expected in zip(neck(levels), registered(levels), strict=True):
        assert torch.equal(level, expected)


@pytest.mark.parametrize('refine', [dict(type='GCNonLocal2d'), GCNonLocal2d])
def test_refine_is_a_module(refine):
    with pytest.raises(TypeError, match='refine=.*: give a module, or None'):
        EBFPN(8, 3, refine=refine)


@pytest.mark.parametrize('refine_level', [-1, 3, 1.0, True, None])
def test_refine_level_is_a_level(refine_level):
    with pytest.raises(ValueError, match=f'refine_level={refine_level}: .* 0 to 2'):
        EBFPN(8, 3, refine_level, refine=None)
