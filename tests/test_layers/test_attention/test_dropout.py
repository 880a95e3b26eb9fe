"""Which attention weights dropout keeps."""

import math

import pytest
import torch
from torch import Tensor

from mmgcnl.layers.attention.dropout import KeepMask
from tests.test_layers.test_attention.cases import (
    NAMES,
    Case,
)


def keep_mask(p: float, seed: int, queries: int, keys: int, heads: int = 1) -> Tensor:
    mask = KeepMask(p, torch.tensor(seed), (1, heads, 1, queries), (1, keys), 'cpu')
    return mask(mask.queries.flatten(2), mask.keys.flatten(2))[0]


@pytest.mark.parametrize('name', NAMES)
def test_dropout_follows_the_seed(name):
    case = Case(1, 2, 8, (4, 5), 1, True, 1.0, 0.5, 3)
    first, again, other = (
        case._replace(seed=seed).run(name, torch.float32)[0] for seed in (3, 3, 4)
    )
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


@pytest.mark.parametrize('p', [0.1, 0.5, 2**-17, 1 - 2**-17])
def test_dropout_keeps_the_share_that_it_says(p):
    mask = KeepMask(p, torch.tensor(3), (1, 1, 1, 1), (1, 1), 'cpu')
    assert 1 / mask.scale == pytest.approx(1 - p, rel=1e-4)
    kept = keep_mask(p, 3, 1000, 1001)[0].float()
    assert set(kept.unique().tolist()) <= {0.0, 1.0}
    assert kept.mean() == pytest.approx(1 - p, abs=2e-3)


@pytest.mark.parametrize('p', [0.1, 0.5])
def test_dropout_is_independent(p):
    """Counts scatter like a binomial's, and the spectrum ends where a random one does."""
    size = 1500
    masks = *keep_mask(p, 3, size, size, heads=2), *keep_mask(p, 4, size, size)
    first, other_head, other_seed = (
        (mask.double() - (1 - p)) / math.sqrt(p * (1 - p)) for mask in masks
    )
    for other in (torch.ones_like(first), other_head, other_seed):
        assert abs((first * other).mean()) < 4 / size
    for axis in (0, 1):
        counts = first.sum(axis) / math.sqrt(size)
        assert abs(counts.var() - 1) < 4 * math.sqrt(2 / size)
        shifted = first * first.roll(1, axis)
        assert abs(shifted.mean()) < 4 / size
    # Any structure among rows and columns together would stand out (Marchenko, Pastur).
    assert torch.linalg.matrix_norm(first, 2) < 2.05 * math.sqrt(size)
