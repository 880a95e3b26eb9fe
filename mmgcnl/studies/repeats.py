"""How far runs that were repeated with the same seed come out as the first time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .comparisons import paired_difference, prediction_interval
from .metrics import MEASURED, Metric, format_value
from .results import Results


def compare_repeats(again: Results, first: Results) -> Iterator[str]:
    """Yield a Markdown table: the differences of repeated runs, over all rows.

    Runs that have equal values in both studies are only counted.

    Args:
        again: The results of the repeated runs.
        first: Those of the study that they repeat.
    """
    metrics = [m for m in again.study.metrics if m.name not in MEASURED]
    both = again.runs & first.runs
    equal = {
        (row, seed)
        for row, seed in both
        if all(
            again.values(row, m.name).get(seed) == first.values(row, m.name).get(seed)
            for m in metrics
        )
    }
    yield (
        f'{len(equal)} of {len(both)} runs have the same values as in '
        f'"{first.study.title}".'
    )
    if equal == both:
        return
    yield ''
    yield 'The others, repeated minus first:'
    yield ''
    yield (
        '| metric | runs | mean ± standard deviation | largest | over seeds, times √2 | '
        'in the interval |'
    )
    yield f'|---|{"---:|" * 5}'
    for metric in metrics:
        cells = _summary(again, first, metric, both - equal)
        if cells:
            yield f'| {metric.label} | {" | ".join(cells)} |'
    yield ''
    yield (
        '*Over seeds, times √2*: standard deviation of the difference of two seeds of a '
        'row in the first study, pooled over the rows of these runs. If the seed decided '
        'the result, the repeated runs would differ by less. *In the interval*: runs '
        'within the 95 % prediction interval of their row there.'
    )


def _summary(
    again: Results, first: Results, metric: Metric, runs: set[tuple[str, int]]
) -> list[str]:
    """Return the cells of a line; none if no run has the metric in both studies."""
    differences, variances, inside = [], [], []
    for row in dict.fromkeys(row for row, _ in sorted(runs)):
        values = first.values(row, metric.name)
        found = paired_difference(again.values(row, metric.name), values)
        low, high = prediction_interval(list(values.values()))
        for seed, difference in (found.values if found else {}).items():
            if (row, seed) in runs:
                differences.append(difference)
                if len(values) > 1:
                    inside.append(low <= values[seed] + difference <= high)
        if len(values) > 1:
            variances.append(np.var(list(values.values()), ddof=1))
    if not differences:
        return []
    spread = float(np.std(differences, ddof=1)) if len(differences) > 1 else np.nan
    largest = max(differences, key=abs)
    over_seeds = float(np.sqrt(2 * np.mean(variances))) if variances else np.nan
    mean = format_value(float(np.mean(differences)), metric, True)
    return [
        str(len(differences)),
        mean if np.isnan(spread) else f'{mean} ± {format_value(spread, metric)}',
        format_value(largest, metric, True),
        format_value(over_seeds, metric),
        f'{sum(inside)} of {len(inside)}' if inside else '',
    ]
