import multiprocessing
from pathlib import Path

import pytest

from mmgcnl.studies import CsvError, Record, append_records, read_records


def test_what_is_appended_is_read(tmp_path, record):
    path = tmp_path / 'new' / 'results.csv'
    first = [record(), record(seed=1, value=1 / 3, versions='a, "b"')]
    append_records(path, first)
    append_records(path, [record(row='wide', value=float('inf'))])
    records, broken = read_records(path)
    assert records == [*first, record(row='wide', value=float('inf'))]
    assert not broken
    assert path.read_text().count('study,row,seed') == 1


def append_runs(path: Path, name: str, start) -> None:
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
    assert not broken
    assert len(records) == 2 * 10 * 40
    # What is appended by one call stays together.
    runs = [(r.row, r.seed) for r in records]
    assert all(len(set(runs[i : i + 40])) == 1 for i in range(0, len(runs), 40))


@pytest.mark.parametrize(
    ('line', 'reason'),
    [
        ('small,plain,1,mIoU', '4 cells instead of 10'),
        ('small,plain,one,mIoU,50,a,b,1,auto,01234567', "seed='one' is not a whole number"),
        ('small,plain,1,mIoU,high,a,b,1,auto,01234567', "value='high' is not a number"),
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
    records, (message,) = read_records(path)
    assert records == [record(), record(seed=2)]
    assert f'{path}, line 3: ' in message and reason in message
    assert path.read_text().startswith(before)


def test_line_that_a_killed_process_left(tmp_path, record):
    path = tmp_path / 'results.csv'
    append_records(path, [record()])
    with open(path, 'a') as file:
        file.write('small,plain,1,mIoU,50.0,a,b,1,au')
    _, (message,) = read_records(path)
    assert 'line 3: the line is incomplete' in message
    append_records(path, [record(seed=1)])
    records, (message,) = read_records(path)
    assert records == [record(), record(seed=1)]
    assert 'line 3: 9 cells instead of 10' in message


def test_other_file_is_refused_and_kept(tmp_path, record):
    path = tmp_path / 'other.csv'
    path.write_text('a,b\n1,2\n')
    for function in (read_records, lambda p: append_records(p, [record()])):
        with pytest.raises(CsvError, match=r"other.csv is not a CSV file.*'a,b'.*--csv"):
            function(path)
    assert path.read_text() == 'a,b\n1,2\n'
