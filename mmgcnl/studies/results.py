"""The results of studies: one CSV file, a line for each value that a run measured.

Several processes may append to a file at the same time. A process that is killed leaves at
most one incomplete line, which is reported and skipped.
"""

from __future__ import annotations

import csv
import fcntl
import io
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, get_type_hints

import pandas as pd

from mmgcnl.evaluation.metric_labels import DISTANCES

from .study import Study, StudyError

#: Metric in the last line that a run appends to the CSV file. It marks the run as complete.
LAST_METRIC = 'train_seconds'
#: Metric in the last line of an ablation, which marks it as complete.
LAST_ABLATION = 'ablate_seconds'
#: What is measured in every run besides the metrics of its config. The distances exist
#: only for models with non-local blocks.
MEASURED = (LAST_METRIC, 'seconds_per_iteration', 'peak_memory_mib', *DISTANCES)


class Record(NamedTuple):
    """A value that one run measured: a line of the CSV file."""

    study: str
    row: str
    seed: int  # of the training and, where the study draws its data, of the data
    metric: str
    value: float
    revision: str  # of all code that trained or measured the model; -dirty: files differed
    versions: str  # of Python and the libraries
    threads: int  # of each process
    attention: str  # a key of mmgcnl.layers.IMPLEMENTATIONS, or 'auto'
    settings: str  # see mmgcnl.studies.study.digest


_TYPES = tuple(get_type_hints(Record).values())


class CsvError(ValueError):
    """The file is not a CSV file of studies."""


def append_records(path: str | Path, records: Iterable[Record]) -> None:
    """Append all ``records`` in one write, and wait until they are on the disk.

    Raises:
        CsvError: The file exists and has other columns.
        OSError: It cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    csv.writer(text, lineterminator='\n').writerows(records)
    # Mode 'w' would empty the file of another process, and a buffer could split the
    # lines over several writes.
    with open(path, 'a+b', buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        size = file.seek(0, os.SEEK_END)
        head = ''
        if not size:
            head = ','.join(Record._fields) + '\n'
        else:
            file.seek(0)
            _check_header(path, file.readline().decode(errors='replace'))
            file.seek(size - 1)
            if file.read(1) != b'\n':  # a process was killed while it wrote
                head = '\n'
        data = (head + text.getvalue()).encode()
        while data:  # a disk that is almost full takes a part, then raises
            data = data[file.write(data) :]
        os.fsync(file.fileno())


def read_records(path: str | Path) -> tuple[pd.DataFrame, list[str]]:
    """Read a CSV file of studies, which need not exist yet.

    Returns:
        All intact lines in their order, with the fields of :class:`Record` as columns, and
        a message for each broken line, which names the file, the line number and what is
        wrong.

    Raises:
        CsvError: The file has other columns.
    """
    records: list[Record] = []
    broken: list[str] = []
    if not os.path.exists(path):
        return pd.DataFrame(columns=Record._fields), broken
    with open(path, newline='', encoding='utf-8', errors='replace') as file:
        fcntl.flock(file, fcntl.LOCK_SH)  # wait for processes that append
        for number, line in enumerate(file, 1):
            if number == 1:
                _check_header(path, line)
                continue
            try:
                records.append(_parse(line))
            except (ValueError, csv.Error) as error:
                broken.append(f'{path}, line {number}: {error}')
    return pd.DataFrame(records, columns=Record._fields), broken


def measured_runs(study: Study, path: Path, metric: str) -> dict[tuple[str, int], set[str]]:
    """Find the runs that have a metric in the CSV file, also of one of several blocks.

    Returns:
        The settings, by row and seed.
    """
    records, _ = read_records(path)
    metrics = records.metric.str.replace('@.*', '', regex=True)
    records = records[(records.study == study.name) & (metrics == metric)]
    return records.groupby(['row', 'seed']).settings.agg(set).to_dict()


def _check_header(path: str | Path, line: str) -> None:
    if line.rstrip('\r\n').split(',') != list(Record._fields):
        raise CsvError(
            f'{path} is not a CSV file of studies: its first line is {line.strip()[:80]!r} '
            f'instead of {",".join(Record._fields)!r}; give another --csv'
        )


def _parse(line: str) -> Record:
    if not line.endswith('\n'):
        raise ValueError('the line is incomplete')
    (cells,) = csv.reader([line], strict=True)
    if len(cells) != len(Record._fields):
        raise ValueError(f'{len(cells)} cells instead of {len(Record._fields)}')
    if not re.fullmatch('[0-9a-f]{8}', cells[-1]):
        raise ValueError(f'settings={cells[-1]!r} are not 8 hexadecimal digits')
    return Record._make(kind(cell) for kind, cell in zip(_TYPES, cells))


class Results:
    """The values that the complete runs of a study have measured.

    Args:
        study: The study.
        records: From :func:`read_records`. Those of other studies are left out. When a
            value was measured several times, the last one counts.

    Attributes:
        runs: The row and the seed of every complete run.
        table: Their values: a line for each run, by row and seed, and a column for each
            metric. Distances of several blocks are averaged.

    Raises:
        StudyError: A row has results of several settings.
    """

    def __init__(self, study: Study, records: pd.DataFrame) -> None:
        self.study = study
        records = records[(records.study == study.name) & records.row.isin(study.rows)]
        runs = pd.MultiIndex.from_frame(records[['row', 'seed']])
        complete = runs.isin(runs[records.metric == LAST_METRIC])
        records = records[complete]
        self.runs: set[tuple[str, int]] = set(runs[complete])
        settings = records.groupby('row', sort=False).settings.nunique()
        if (settings > 1).any():
            raise StudyError(
                f'{study.name}: results of several settings in '
                f'{", ".join(settings.index[settings > 1])}; '
                'move the lines of all but one (column settings) to another file'
            )
        last = records.drop_duplicates(['row', 'seed', 'metric'], keep='last')
        metric = last.metric.astype(str).str.replace(r'^(cos_\w+)@.*', r'\1', regex=True)
        values = last.value.astype(float).groupby([last.row, last.seed, metric]).mean()
        self.table = values.unstack('metric')

    def missing(self) -> list[str]:
        """Return a message for each row with runs, and a metric that none of them has."""
        study = self.study
        asked = {
            (row.row, m.name) for t in study.tables for row in t.rows for m in t.metrics
        }
        for comparison in (*study.primary, *study.secondary):
            asked |= {(row, comparison.metric) for row in (comparison.row, comparison.than)}
        done = {row for row, _ in self.runs}
        return [
            f'{study.path}: no run of {row!r} has measured {metric!r}'
            for row, metric in sorted(asked)
            if row in done and metric not in MEASURED and not len(self.values(row, metric))
        ]

    def values(self, row: str, metric: str) -> pd.Series:
        """Return the values, by seed in ascending order."""
        if metric not in self.table or row not in self.table.index:
            return pd.Series(dtype=float)
        return self.table.loc[row][metric].dropna()

    def ablated(self, ablation: str, metric: str) -> pd.Series:
        """Return the values by row and seed under an ablation, of all blocks together."""
        name = f'ablate/{ablation.replace(" ", "-")}'
        columns = [f'{name}/{metric}', f'{name}@all/{metric}']
        return self.table.reindex(columns=columns).bfill(axis=1)[columns[0]]


def read_results(study: Study, path: Path | None = None) -> tuple[Results, list[str]]:
    """Read the results of a study.

    Args:
        study: The study.
        path: Its CSV file, if not the one that it names.

    Returns:
        The results, and messages about broken lines and metrics that were not measured.
    """
    records, broken = read_records(path or study.csv or study.folder / 'results.csv')
    results = Results(study, records)
    return results, [*broken, *results.missing()]
