import math

import numpy as np
import pytest
from scipy import stats

from mmgcnl.studies.comparisons import holm, paired_difference, prediction_interval

ONE = {0: 5.1, 1: 6.3, 2: 4.8, 3: 7.0, 9: 100.0}
OTHER = {3: 5.5, 2: 4.1, 1: 6.0, 0: 4.9, 8: -100.0}


def test_paired_difference_is_scipys():
    difference = paired_difference(ONE, OTHER)
    one, other = ([v[s] for s in range(4)] for v in (ONE, OTHER))
    result = stats.ttest_rel(one, other)
    interval = result.confidence_interval(0.95)
    assert list(difference.values) == [0, 1, 2, 3]
    assert difference.mean == pytest.approx(np.mean(np.subtract(one, other)))
    assert difference.p == pytest.approx(result.pvalue)
    assert (difference.low, difference.high) == pytest.approx(tuple(interval))


def test_too_few_seeds():
    assert paired_difference({0: 1.0}, {1: 1.0}) is None
    one = paired_difference({0: 3.0}, {0: 1.0})
    assert one.mean == 2 and math.isnan(one.p) and math.isnan(one.low)
    assert all(map(math.isnan, prediction_interval([1.0])))


@pytest.mark.parametrize(('shift', 'p'), [(0.0, 1.0), (2.0, 0.0)])
def test_same_difference_in_all_seeds(shift, p):
    one = {seed: float(seed) + shift for seed in range(3)}
    difference = paired_difference(one, {seed: float(seed) for seed in range(3)})
    assert (difference.low, difference.high, difference.p) == (shift, shift, p)


def test_holm():
    # Holm's own procedure by hand: 4 x 0.01, 3 x 0.02, 2 x 0.03 (not below the one before),
    # 0.5.
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    adjusted = holm([0.01, math.nan])
    assert adjusted[0] == 0.02 and math.isnan(adjusted[1])


def test_prediction_interval_covers_one_more_value():
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(4000, 6))
    inside = [
        low <= x <= high for *seen, x in draws for low, high in [prediction_interval(seen)]
    ]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.015)
