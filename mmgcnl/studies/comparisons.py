"""Means with their spread, and paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

#: The confidence level of all intervals.
CONFIDENCE = 0.95


def prediction_interval(values: Sequence[float]) -> tuple[float, float]:
    """Prediction interval for one more run: mean -+ t s sqrt(1 + 1 / n).

    Its ends are NaN for fewer than two values.
    """
    n = len(values)
    if n < 2:
        return float('nan'), float('nan')
    t = stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)
    half = t * np.std(values, ddof=1) * np.sqrt(1 + 1 / n)
    mean = float(np.mean(values))
    return mean - float(half), mean + float(half)


@dataclass(frozen=True)
class Difference:
    """The difference between two rows, paired by seed.

    Attributes:
        values: The difference for each seed that both rows have.
        mean: Their mean.
        low: Lower end of the 95 % t interval of the mean; NaN for fewer than two seeds.
        high: Its upper end.
        p: The p value of the two-sided paired t-test; NaN for fewer than two seeds.
    """

    values: dict[int, float]
    mean: float
    low: float
    high: float
    p: float


def paired_difference(
    one: Mapping[int, float], other: Mapping[int, float]
) -> Difference | None:
    """Compute ``one`` minus ``other`` by seed; None if they have no seed in common."""
    values = {seed: one[seed] - other[seed] for seed in sorted(one) if seed in other}
    if not values:
        return None
    differences = np.array(list(values.values()))
    mean = float(differences.mean())
    nan = float('nan')
    if len(differences) < 2:
        return Difference(values, mean, nan, nan, nan)
    error = float(stats.sem(differences))
    if error == 0:  # scipy divides by zero when all differences are equal
        return Difference(values, mean, mean, mean, 1.0 if mean == 0 else 0.0)
    low, high = stats.t.interval(CONFIDENCE, len(differences) - 1, mean, error)
    p = float(stats.ttest_1samp(differences, 0).pvalue)
    return Difference(values, mean, float(low), float(high), p)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p values (Scand. J. Statist. 6, 1979); NaN stays NaN.

    NaN stands for a comparison without results yet. It counts as a hypothesis, or the
    others would look better than they are.
    """
    n = len(p_values)
    order = np.argsort(np.nan_to_num(p_values, nan=np.inf), kind='stable')
    adjusted = [float('nan')] * n
    largest = 0.0
    for rank, index in enumerate(order):
        if np.isnan(p_values[index]):
            continue
        largest = max(largest, min(1.0, (n - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted
