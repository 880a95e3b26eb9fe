import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mmgcnl.studies import (
    Record,
    Results,
    draw,
    read_study,
    render,
    render_page,
    render_table,
)
from mmgcnl.studies.report import holm, paired_test, prediction_interval

ROOT = Path(__file__).parents[2]


def squeezed(text):
    """Without the spaces that align tables."""
    return re.sub(' +', ' ', text)


def rendered(study_file, records, **options):
    return render(Results(read_study(study_file, ROOT), pd.DataFrame(records)), **options)


def test_report(results):
    text = render(results, 'small.png')
    assert '`small.yml`: 6 of 6 runs are done.' in text
    assert 'python tools/study.py run' not in text
    assert '| Plain | 3 | 51.17 ± 1.26 | |' in squeezed(text)
    assert '| wide | 3 | 54.17 ± 1.04 | 0.200 ± 0.000 |' in squeezed(text)
    # Differences 3, 3.5 and 2.5: 3 -+ 4.303 * 0.5 / sqrt(3), p = 0.0092.
    line = '| wide − Plain | mIoU | +3.00 | +1.76 to +4.24 | 0.009 | higher | '
    assert line + 'higher: as predicted |' in text
    assert '![every run of small](small.png)' in text


def test_prediction_interval():
    """mean -+ t s sqrt(1 + 1/n): 51.17 -+ 4.303 * 1.258 * 1.155."""
    low, high = prediction_interval(pd.Series([50.0, 51.0, 52.5]))
    assert (low, high) == (pytest.approx(44.92, abs=0.005), pytest.approx(57.42, abs=0.005))


def test_report_without_results(study_file, records):
    text = rendered(study_file, records[-1:])  # of another study
    assert '0 of 6 runs are done' in text
    assert '\npython tools/study.py run small.yml\n' in text
    assert '| wide − Plain | mIoU |  |  |  | higher |  |' in text


def test_small_differences_are_not_printed_as_zeros(study_file, records):
    records = [
        r._replace(value=r.value * 1e-5) if r.metric == 'mIoU' else r for r in records
    ]
    line = '| wide − Plain | mIoU | +3e-05 | +2e-05 to +4e-05 | 0.009 |'
    assert line in rendered(study_file, records)


@pytest.fixture
def ablate(study_file, records, record):
    """Render the study with an ablation of its row `wide`, whose drop varies by seed."""

    def render_ablated(drop, metrics=('mIoU',), block=''):
        for metric in metrics:
            for seed, value in enumerate((53.0, 54.5, 55.0)):
                changes = dict(row='wide', seed=seed, settings='1' * 8)
                lower = value - drop * (1 + seed / 10)
                name = f'ablate/position-zeroed{block}/{metric}'
                records.append(record(metric=name, value=lower, **changes))
                records.append(record(metric=metric, value=value, **changes))
        return rendered(study_file, records)

    return render_ablated


@pytest.mark.parametrize('block', ['', '@all'])
def test_ablations(ablate, block):
    text = ablate(10, block=block)
    assert '| fall of mIoU | seeds | position zeroed |' in text
    assert '| wide | 3 | 11.00 ± 1.00 |' in text
    assert 'context mean' not in text


def test_ablations_that_change_nothing_are_one_sentence(ablate):
    text = ablate(0.02)
    assert '3 models that were ablated, no ablation changes any metric by more than' in text
    assert 'more than 0.02.' in text and 'fall of mIoU' not in text


def test_metrics_of_ablations_are_chosen(study_file, ablate):
    """The first one, unless the study says otherwise; the CSV file has all of them."""
    content = study_file.read_text().replace('cos_att: }', 'aAcc: , cos_att: }')
    study_file.write_text(content)
    text = ablate(10, ('mIoU', 'aAcc'))
    assert 'fall of mIoU' in text and 'fall of aAcc' not in text
    study_file.write_text(content + 'ablated: [aAcc]\n')
    text = ablate(10, ('mIoU', 'aAcc'))
    assert 'fall of aAcc' in text and 'fall of mIoU' not in text


def test_notes_explain_the_tables_of_the_page(study_file, tmp_path):
    text, _ = render_page([study_file], ROOT, csv=tmp_path / 'none.csv', intro='# Title\n')
    assert text.startswith('# Title\n\n## How to read the tables\n')
    assert text.count('**Comparisons** are paired') == 1
    assert '**Ablations**' not in text and '**Repeated runs**' not in text


def test_tables_of_some_rows(results):
    text = render_table(results, rows=['wide'])
    assert '| wide ' in text and '| Plain ' not in text
    assert render_table(results, rows=['no such row']).strip() == ''


def test_picture(results, tmp_path):
    draw(results, tmp_path / 'new/small.png')
    first = (tmp_path / 'new/small.png').read_bytes()
    assert len(first) < 300_000
    draw(results, tmp_path / 'again.png')
    assert (tmp_path / 'again.png').read_bytes() == first


def test_report_says_what_speaks_against_the_prediction(study_file, records):
    study_file.write_text(study_file.read_text().replace('higher', 'lower'))
    assert '| lower | higher: against the prediction |' in rendered(study_file, records)


def test_paper_figures_of_a_server():
    study = read_study(ROOT / 'configs/paper_tables.yml', ROOT)
    results = Results(study, pd.DataFrame(columns=Record._fields))
    for name, dataset in (('3', 'Cityscapes'), ('5', 'COCO test-dev'), ('4', None)):
        found = re.findall("paper's accuracy on (.*) is from", render_table(results, name))
        assert found == ([dataset] if dataset else [])


def test_table_quotes_the_paper(study_file, records):
    study_file.write_text(
        study_file.read_text()
        + 'tables:\n'
        + "  - {table: '1', paper: {file: configs/paper_tables.yml, table: '1'}, "
        + 'rows: {plain: nl, wide: }}\n'
    )
    results = Results(read_study(study_file, ROOT), pd.DataFrame(records))
    text = squeezed(render_table(results, '1'))
    assert '| row | seeds | mIoU, paper | mIoU, here | dist. attention |' in text
    assert '| Plain | 3 | 47.25 | 51.17 ± 1.26 | |' in text


# --- repeated runs --------------------------------------------------------------------


@pytest.fixture
def compare(study_file, record):
    """Render a study that repeats runs of the other, from the values by row and seed."""

    def results(values):
        records = []
        for (row, seed), value in values.items():
            common = dict(row=row, seed=seed, settings=f'{row:0<8}')
            records.append(record(value=value, **common))
            records.append(record(metric='train_seconds', value=9.0, **common))
        return Results(read_study(study_file, ROOT), pd.DataFrame(records))

    return lambda again, first: render(results(again), first=results(first))


FIRST = {
    **{('plain', seed): value for seed, value in enumerate((50.0, 51.0, 52.5))},
    **{('wide', seed): value for seed, value in enumerate((53.0, 54.5, 55.0))},
}


def test_repeated_runs_are_compared(compare):
    again = {('plain', 0): 50.0, ('plain', 1): 51.5, ('plain', 2): 60.0, ('wide', 0): 53.0}
    text = compare(again, FIRST)
    assert '2 of 4 runs have the same values as in "A small study"' in text
    # +0.5 and +7.5. Variances 1.5833 and 1.0833 over the seeds of the rows, of which only
    # that of the row with differences counts. 44.92 to 57.42 is its prediction interval.
    spread, over_seeds = 7 / math.sqrt(2), math.sqrt(2 * 1.58333)
    line = f'| mIoU | 2 | +4.00 ± {spread:.2f} | +7.50 | {over_seeds:.2f} | 1 of 2 |'
    assert line in text


def test_equal_or_no_repeated_runs(compare):
    text = compare(FIRST, FIRST)
    assert '6 of 6 runs have the same values' in text and 'The others' not in text
    assert 'Compared with the first runs' not in compare({('plain', 7): 50.0}, FIRST)


def test_row_without_an_interval_is_not_counted(compare):
    first = {key: v for key, v in FIRST.items() if key[0] == 'plain' or key[1] == 0}
    text = compare({('plain', 0): 51.0, ('wide', 0): 54.0}, first)
    assert re.search(r'\| mIoU \| 2 \| .* \| 1 of 1 \|', text)


# --- statistics -----------------------------------------------------------------------


def test_paired_test_is_scipys():
    one, other = np.array([5.1, 6.3, 4.8, 7.0]), np.array([4.9, 6.0, 4.1, 5.5])
    result = stats.ttest_rel(one, other)
    expected = (*result.confidence_interval(0.95), result.pvalue)
    assert paired_test(pd.Series(one - other)) == pytest.approx(expected)


def test_too_few_seeds():
    assert all(map(math.isnan, paired_test(pd.Series([2.0]))))
    assert all(map(math.isnan, prediction_interval(pd.Series([1.0]))))


@pytest.mark.parametrize(('shift', 'p'), [(0.0, 1.0), (2.0, 0.0)])
def test_same_difference_in_all_seeds(shift, p):
    assert paired_test(pd.Series([shift] * 3)) == (shift, shift, p)


def test_holm():
    # Holm's own procedure by hand: 4 x 0.01, 3 x 0.02, 2 x 0.03 (not below the one before),
    # 0.5.
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([math.nan, 0.01]) == pytest.approx([math.nan, 0.02], nan_ok=True)
