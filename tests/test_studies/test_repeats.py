import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from mmgcnl.studies import Results, read_study, render

ROOT = Path(__file__).parents[2]
FIRST = {'plain': (50.0, 51.0, 52.5), 'wide': (53.0, 54.5, 55.0)}
#: Two runs come out as before, and one far from the others of its row.
AGAIN = {'plain': (50.0, 51.5, 60.0), 'wide': (53.0,)}


@pytest.fixture
def both(study_file, record):
    """Results of a study, and of one that repeats it."""

    def results(values):
        records = []
        for row, by_seed in values.items():
            for seed, value in enumerate(by_seed):
                common = dict(row=row, seed=seed, settings=f'{row:0<8}')
                records.append(record(value=value, **common))
                records.append(record(metric='train_seconds', value=9.0, **common))
        return Results(study, records)

    study = read_study(study_file, ROOT)
    return results(FIRST), results(AGAIN)


def test_repeated_runs_are_compared(both):
    first, again = both
    text = render(again, first=first)
    assert '2 of 4 runs have the same values as in "A small study"' in text
    # +0.5 and +7.5. Variances 1.5833 and 1.0833 over the seeds of the rows, of which only
    # that of the row with differences counts. 44.92 to 57.42 is its prediction interval.
    spread, over_seeds = 7 / math.sqrt(2), math.sqrt(2 * 1.58333)
    line = f'| mIoU | 2 | +4.00 ± {spread:.2f} | +7.50 | {over_seeds:.2f} | 1 of 2 |'
    assert line in text


def test_one_repeated_run_has_no_spread(both):
    first, again = both
    again = Results(
        again.study,
        [r for r in again.records if r.row == 'plain' and r.seed == 1],
    )
    text = render(again, first=first)
    assert '0 of 1 runs have the same values' in text
    assert '| mIoU | 1 | +0.50 | +0.50 |' in text


def test_nothing_to_compare(both):
    first, again = both
    others = [replace(r, seed=r.seed + 3) for r in again.records]
    text = render(Results(again.study, others), first=first)
    assert 'Compared with the first runs' not in text


def test_all_repeated_runs_are_equal(both):
    first, _ = both
    text = render(first, first=first)
    assert '6 of 6 runs have the same values' in text
    assert 'The others' not in text


def test_row_without_an_interval_is_not_counted(both):
    first, again = both
    one = [r for r in first.records if r.row == 'plain' or r.seed == 0]
    changed = [replace(r, value=r.value + 1) for r in again.records if r.seed == 0]
    text = render(Results(again.study, changed), first=Results(again.study, one))
    assert re.search(r'\| mIoU \| 2 \| .* \| 1 of 1 \|', text)
