import re
from dataclasses import replace
from pathlib import Path

import pytest

from mmgcnl.studies import Results, StudyError, draw, read_study, render, render_table

ROOT = Path(__file__).parents[2]
PLAIN, WIDE = (50.0, 51.0, 52.5), (53.0, 54.5, 55.0)


@pytest.fixture
def records(record):
    """Three seeds of two rows, one value appended twice, and a run that is not complete."""
    found = []
    for row, values in (('plain', PLAIN), ('wide', WIDE)):
        settings = dict(plain='0' * 8, wide='1' * 8)[row]
        for seed, value in enumerate(values):
            common = dict(row=row, seed=seed, settings=settings)
            found.append(record(value=0.0, **common))
            found.append(record(value=value, **common))
            if row == 'wide':
                found.append(record(metric='cos_att@a', value=0.1, **common))
                found.append(record(metric='cos_att@b', value=0.3, **common))
            found.append(record(metric='train_seconds', value=9.0, **common))
    found.append(record(seed=7, value=99.0))
    found.append(record(study='other', seed=8, value=99.0))
    return found


@pytest.fixture
def results(study_file, records):
    return Results(read_study(study_file, ROOT), records)


def test_results(results):
    assert results.values('plain', 'mIoU') == dict(enumerate(PLAIN))
    assert results.values('wide', 'cos_att') == pytest.approx({s: 0.2 for s in range(3)})
    assert results.values('plain', 'cos_att') == {}
    assert len(results.runs) == 6


def test_results_of_several_settings(study_file, records, record):
    changed = dict(seed=5, settings='f' * 8)
    records += [record(**changed), record(metric='train_seconds', **changed)]
    with pytest.raises(StudyError, match='several settings in plain'):
        Results(read_study(study_file, ROOT), records)


def test_report(results):
    text = render(results, 'small.png')
    squeezed = re.sub(' +', ' ', text)
    assert '6 of 6 runs are done' in text
    # Without another CSV file, nothing would be run again.
    commands = re.findall(
        '^OMP_NUM_THREADS=1 python tools/study.py run .*', text, re.MULTILINE
    )
    assert len(commands) == 2
    for command in commands:
        assert command.endswith(
            ' --work-dir work_dirs/again/small --csv work_dirs/again/small.csv'
        )
    assert '| Plain | 3 | 51.17 ± 1.26 | |' in squeezed
    assert '| wide | 3 | 54.17 ± 1.04 | 0.200 ± 0.000 |' in squeezed
    # Differences 3, 3.5 and 2.5: 3 -+ 4.303 * 0.5 / sqrt(3), p = 0.0092.
    line = '| wide − Plain | mIoU | +3.00 | +1.76 to +4.24 | 0.009 | higher | '
    assert line + 'higher: as predicted |' in text
    assert '| Plain | mIoU | 50.00 | 51.00 | 52.50 | 44.92 to 57.42 |' in text
    assert '![every run of small](small.png)' in text
    assert '- Versions: torch 2, numpy 2' in text


def test_paper_figures_of_a_server():
    study = read_study(ROOT / 'configs/paper_tables.yml', ROOT)
    results = Results(study, [])
    for name, dataset in (('3', 'Cityscapes'), ('5', 'COCO test-dev'), ('4', None)):
        found = re.findall("paper's accuracy on (.*) is from", render_table(results, name))
        assert found == ([dataset] if dataset else [])


def test_report_says_what_speaks_against_the_prediction(study_file, records):
    study_file.write_text(study_file.read_text().replace('higher', 'lower'))
    results = Results(read_study(study_file, ROOT), records)
    assert '| lower | higher: against the prediction |' in render(results)


def test_small_differences_are_not_printed_as_zeros(study_file, records):
    small = [replace(r, value=r.value * 1e-5) for r in records if r.metric == 'mIoU']
    others = [r for r in records if r.metric != 'mIoU']
    text = render(Results(read_study(study_file, ROOT), small + others))
    assert '| wide − Plain | mIoU | +3e-05 | +2e-05 to +4e-05 | 0.009 |' in text


def test_report_without_results(study_file):
    text = render(Results(read_study(study_file, ROOT), []))
    assert '0 of 6 runs are done' in text
    first = re.search('^python tools/study.py run .*', text, re.MULTILINE).group()
    assert first.endswith('.yml')
    assert '| wide − Plain | mIoU |  |  |  | higher |  |' in text


def test_ablations(study_file, records, record):
    for seed, value in enumerate(WIDE):
        name = 'ablate/position-zeroed/mIoU'
        changes = dict(row='wide', seed=seed, settings='1' * 8)
        records.append(record(metric=name, value=value - 10 - seed, **changes))
    text = render(Results(read_study(study_file, ROOT), records))
    assert '| wide | position zeroed | 3 | 11.00 ± 1.00 |' in text
    assert '| wide | context mean |' not in text


def test_table_quotes_the_paper(study_file, records):
    study_file.write_text(
        study_file.read_text()
        + 'tables:\n'
        + "  - {table: '1', paper: {file: configs/paper_tables.yml, table: '1'}, "
        + 'rows: {plain: nl, wide: }}\n'
    )
    text = render_table(Results(read_study(study_file, ROOT), records), '1')
    squeezed = re.sub(' +', ' ', text)
    assert '| row | seeds | mIoU, paper | mIoU, here | dist. attention |' in squeezed
    assert '| Plain | 3 | 47.25 | 51.17 ± 1.26 | |' in squeezed


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
