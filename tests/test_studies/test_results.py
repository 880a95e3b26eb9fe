import multiprocessing
from pathlib import Path

import pandas as pd
import pytest

from mmgcnl.studies import (
    CsvError,
    Record,
    Results,
    StudyError,
    append_records,
    read_records,
    read_study,
)

ROOT = Path(__file__).parents[2]


def read(path):
    """The records, as they were appended, and the messages."""
    found, broken = read_records(path)
    return [Record(*line) for line in found.itertuples(index=False)], broken


def test_what_is_appended_is_read(tmp_path, record):
    path = tmp_path / 'new' / 'results.csv'
    first = [record(), record(seed=1, value=1 / 3, versions='a, "b"')]
    append_records(path, first)
    append_records(path, [record(row='wide', value=float('inf'))])
    assert read(path) == ([*first, record(row='wide', value=float('inf'))], [])
    assert path.read_text().splitlines()[:2] == [
        'study,row,seed,metric,value,revision,versions,threads,attention,settings',
        'small,plain,0,mIoU,50.0,abc,"torch 2, numpy 2",1,auto,01234567',
    ]


def append_runs(path, name, start):
    start.wait()
    for seed in range(10):
        records = [
            Record('small', name, seed, f'm{i}', i / 7, 'a', 'x, "y"', 1, 'auto', '0' * 8)
            for i in range(40)
        ]
        append_records(path, records)


def test_processes_append_at_once(tmp_path):
    path = tmp_path / 'results.csv'
    context = multiprocessing.get_context('fork')
    start = context.Barrier(2, timeout=300)
    writers = [
        context.Process(target=append_runs, args=(path, name, start))
        for name in ('one', 'other')
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(timeout=300)
    assert [writer.exitcode for writer in writers] == [0, 0]
    records, broken = read_records(path)
    assert not broken and len(records) == 2 * 10 * 40
    # What is appended by one call stays together.
    together = records.groupby([records.index // 40]).agg(
        {'row': 'nunique', 'seed': 'nunique'}
    )
    assert (together == 1).all(axis=None)


@pytest.mark.parametrize(
    ('line', 'reason'),
    [
        ('small,plain,1,mIoU', '4 cells instead of 10'),
        ('small,plain,one,mIoU,50,a,b,1,auto,01234567', "int() with base 10: 'one'"),
        ('small,plain,1,mIoU,high,a,b,1,auto,01234567', "string to float: 'high'"),
        ('small,plain,1,mIoU,50,a,b,1,auto,0123', "settings='0123'"),
        ('small,plain,1,"mIoU,50,a,b,1,auto,01234567', 'unexpected end of data'),
    ],
)
def test_broken_line_is_named_and_loses_nothing(tmp_path, record, line, reason):
    path = tmp_path / 'results.csv'
    append_records(path, [record()])
    with open(path, 'a') as file:
        file.write(f'{line}\n')
    before = path.read_text()
    append_records(path, [record(seed=2)])
    records, (message,) = read(path)
    assert records == [record(), record(seed=2)]
    assert f'{path}, line 3: ' in message and reason in message
    assert path.read_text().startswith(before)


def test_line_that_a_killed_process_left(tmp_path, record):
    path = tmp_path / 'results.csv'
    append_records(path, [record()])
    with open(path, 'a') as file:
        file.write('small,plain,1,mIoU,50.0,a,b,1,au')
    assert 'line 3: the line is incomplete' in read(path)[1][0]
    append_records(path, [record(seed=1)])
    records, (message,) = read(path)
    assert records == [record(), record(seed=1)]
    assert 'line 3: 9 cells instead of 10' in message


def test_other_file_is_refused_and_kept(tmp_path, record):
    path = tmp_path / 'other.csv'
    path.write_text('a,b\n1,2\n')
    for function in (read_records, lambda p: append_records(p, [record()])):
        with pytest.raises(CsvError, match=r"other.csv is not a CSV file.*'a,b'.*--csv"):
            function(path)
    assert path.read_text() == 'a,b\n1,2\n'


def test_results(results):
    assert results.values('plain', 'mIoU').to_dict() == {0: 50.0, 1: 51.0, 2: 52.5}
    blocks = results.values('wide', 'cos_att').to_dict()
    assert blocks == pytest.approx({seed: 0.2 for seed in range(3)})
    assert results.values('plain', 'cos_att').empty
    assert len(results.runs) == 6


def test_results_of_several_settings(study_file, records, record):
    changed = dict(seed=5, settings='f' * 8)
    records += [record(**changed), record(metric='train_seconds', **changed)]
    with pytest.raises(StudyError, match='several settings in plain'):
        Results(read_study(study_file, ROOT), pd.DataFrame(records))


def test_metric_that_was_not_measured_is_named(study_file, records):
    study_file.write_text(study_file.read_text().replace('mIoU', 'mIou'))
    study = read_study(study_file, ROOT)
    messages = Results(study, pd.DataFrame(records)).missing()
    assert [message.split(': ')[1] for message in messages] == [
        f"no run of '{row}' has measured 'mIou'" for row in ('plain', 'wide')
    ]
    assert Results(study, pd.DataFrame(records)[:0]).missing() == []
