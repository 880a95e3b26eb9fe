"""The neck in plain PyTorch; test_models/test_ebfpn.py compares it with mmdet's BFP."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmgcnl.layers import EBFPN, GCNonLocal2d


def pyramid(channels, *sizes):
    return [torch.randn(2, channels, *size) for size in sizes]


def test_mean_is_refined_and_added():
    levels = pyramid(8, (8, 12), (4, 6), (2, 3))
    neck = EBFPN(8, 3, 1, refine=nn.Conv2d(8, 8, 1))
    pool, grow = F.adaptive_max_pool2d, F.interpolate
    mean = (pool(levels[0], (4, 6)) + levels[1] + grow(levels[2], (4, 6))) / 3
    refined = neck.refine(mean)
    added = grow(refined, (8, 12)), refined, pool(refined, (2, 3))
    expected = [level + part for level, part in zip(levels, added)]
    for level, truth in zip(neck(levels), expected, strict=True):
        torch.testing.assert_close(level, truth)


@pytest.mark.parametrize('refine', [dict(type='GCNonLocal2d'), GCNonLocal2d])
def test_refine_is_a_module(refine):
    with pytest.raises(TypeError, match='refine=.*: give a module, or None'):
        EBFPN(8, 3, refine=refine)


@pytest.mark.parametrize('refine_level', [-1, 3, 1.0, True, None])
def test_refine_level_is_a_level(refine_level):
    with pytest.raises(ValueError, match=f'refine_level={refine_level}: .* 0 to 2'):
        EBFPN(8, 3, refine_level, refine=None)
