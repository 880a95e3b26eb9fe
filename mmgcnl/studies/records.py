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
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path


@dataclass(frozen=True)
class Record:
    """A value that one run measured.

    Attributes:
        study: Name of the study.
        row: Name of the row.
        seed: The seed of the training and, where the study draws its data, of the data.
        metric: What was measured.
        value: Its value, in the unit of the metric.
        revision: Git revision of the code, with ``-dirty`` when files differed from it. If
            several trained or measured the model, all of them.
        versions: The versions of Python and the libraries.
        threads: The number of threads per process.
        attention: How the attention of our blocks was computed: a key of
            :data:`mmgcnl.layers.IMPLEMENTATIONS`, or 'auto'.
        settings: Digest of what decides the result in the config (see
            :func:`mmgcnl.studies.spec.digest`).
    """

    study: str
    row: str
    seed: int
    metric: str
    value: float
    revision: str
    versions: str
    threads: int
    attention: str
    settings: str


COLUMNS = tuple(field.name for field in fields(Record))


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
    writer = csv.writer(text, lineterminator='\n')
    writer.writerows(astuple(record) for record in records)
    # Mode 'w' would empty the file of another process, and a buffer could split the
    # lines over several writes.
    with open(path, 'a+b', buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        size = file.seek(0, os.SEEK_END)
        head = ''
        if not size:
            head = ','.join(COLUMNS) + '\n'
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


def read_records(path: str | Path) -> tuple[list[Record], list[str]]:
    """Read a CSV file of studies.

    Returns:
        The records of all intact lines in their order, and a message for each broken
        line, which names the file, the line number and what is wrong.

    Raises:
        CsvError: The file has other columns.
        FileNotFoundError: There is no such file.
    """
    records: list[Record] = []
    broken: list[str] = []
    with open(path, newline='', encoding='utf-8', errors='replace') as file:
        fcntl.flock(file, fcntl.LOCK_SH)  # wait for processes that append
        for number, line in enumerate(file, 1):
            if number == 1:
                _check_header(path, line)
                continue
            try:
                if not line.endswith('\n'):
                    raise ValueError('the line is incomplete')
                (cells,) = csv.reader([line], strict=True)
                records.append(_record(cells))
            except (ValueError, csv.Error) as error:
                broken.append(f'{path}, line {number}: {error}')
    return records, broken


def _check_header(path: str | Path, line: str) -> None:
    if line.rstrip('\r\n').split(',') != list(COLUMNS):
        raise CsvError(
            f'{path} is not a CSV file of studies: its first line is {line.strip()[:80]!r} '
            f'instead of {",".join(COLUMNS)!r}; give another --csv'
        )


def _record(cells: Sequence[str]) -> Record:
    if len(cells) != len(COLUMNS):
        raise ValueError(f'{len(cells)} cells instead of {len(COLUMNS)}')
    texts = dict(zip(COLUMNS, cells))
    numbers = {}
    for name, kind, what in (
        ('seed', int, 'a whole number'),
        ('threads', int, 'a whole number'),
        ('value', float, 'a number'),
    ):
        try:
            numbers[name] = kind(texts[name])
        except ValueError:
            raise ValueError(f'{name}={texts[name]!r} is not {what}') from None
    if not re.fullmatch('[0-9a-f]{8}', texts['settings']):
        raise ValueError(f'settings={texts["settings"]!r} are not 8 hexadecimal digits')
    return Record(**{**texts, **numbers})
