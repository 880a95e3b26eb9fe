"""What a study is: rows to train, seeds, and what to report."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict, DictAction

from mmgcnl.utils.cli import read_config

from .metrics import Metric


class StudyError(ValueError):
    """The study asks for something that does not exist or cannot be run."""


@dataclass(frozen=True)
class Row:
    """A config to train, with options that override its settings."""

    name: str
    config: Path
    options: dict[str, Any] = field(default_factory=dict)
    label: str = ''

    def load(self, seed: int = 0) -> Config:
        """Load the config and merge the options and the seed into it."""
        return read_config(str(self.config), {**self.options, 'randomness.seed': seed})

    def arguments(self, seed: int) -> list[str]:
        """Return the options and the seed as arguments of ``--cfg-options``."""
        options = {**self.options, 'randomness.seed': seed}
        return [f'{key}={format_option(value)}' for key, value in options.items()]


@dataclass(frozen=True)
class Line:
    """A line of a table: a row of the study and the paper's figures for it."""

    row: str
    label: str
    paper: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """A table of the report; ``metrics`` are its columns, ``datasets`` the paper's."""

    name: str
    title: str
    lines: tuple[Line, ...]
    metrics: tuple[Metric, ...]
    note: str = ''
    datasets: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """A row minus another row, paired by seed.

    Attributes:
        expect: The prediction written down before the runs, 'higher' or 'lower'; '' for
            none.
    """

    row: str
    than: str
    metric: str
    expect: str = ''


@dataclass(frozen=True)
class Study:
    """A study. :mod:`mmgcnl.studies.reading` describes its fields."""

    name: str
    path: Path
    rows: dict[str, Row]
    tables: tuple[Table, ...]
    metrics: tuple[Metric, ...]
    seeds: tuple[int, ...] = (0,)
    title: str = ''
    text: str = ''
    csv: Path | None = None
    work_dir: Path | None = None
    prepare: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    primary: tuple[Comparison, ...] = ()
    secondary: tuple[Comparison, ...] = ()
    repeats: Study | None = None

    @property
    def folder(self) -> Path:
        """Where its runs are kept, unless the command says otherwise."""
        return self.work_dir or Path('work_dirs/studies') / self.name

    def select(
        self, table: str | None = None, rows: Sequence[str] | None = None
    ) -> list[Row]:
        """Return the rows of a table, or those named by ``rows``, each once.

        Raises:
            StudyError: There is no such table or row.
        """
        names = list(self.rows)
        if table is not None:
            lines = [line for t in self.tables if t.name == table for line in t.lines]
            if not lines:
                raise StudyError(
                    f'{self.path}: no table {table!r}; the study has '
                    f'{listed(t.name for t in self.tables)}'
                )
            names = list(dict.fromkeys(line.row for line in lines))
            # In the paper's tables, rows can also be chosen by their labels.
            aliases = {line.label: line.row for line in lines}
            rows = rows and [aliases.get(name, name) for name in rows]
        for name in rows or ():
            if name not in names:
                raise StudyError(
                    f'{self.path}: no row {name!r}'
                    + (f' in table {table!r}' if table is not None else '')
                    + f'; there are {listed(names)}'
                )
        return [self.rows[name] for name in dict.fromkeys(rows or names)]


def digest(cfg: Config) -> str:
    """Return 8 hexadecimal digits that change with the settings that decide a result.

    They leave out the seed, where the data is, and what is logged, drawn or saved.
    """
    kept = (
        'model',
        'train_dataloader',
        'test_dataloader',
        'test_evaluator',
        'optim_wrapper',
        'param_scheduler',
        'train_cfg',
        'test_cfg',
        'auto_scale_lr',
        'custom_hooks',
    )
    content = {key: cfg.get(key) for key in kept}
    if cfg.get('load_from'):
        content['load_from'] = cfg.load_from
    content = _plain(content, tuple(_data_roots(content)))
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _data_roots(node: Any) -> Iterator[str]:
    """Yield the folders of the data sets in a config."""
    if isinstance(node, (dict, ConfigDict)):
        if node.get('data_root'):
            yield node['data_root'].rstrip('/') + '/'
        node = list(node.values())
    for value in node if isinstance(node, (list, tuple)) else ():
        yield from _data_roots(value)


def _plain(node: Any, roots: tuple[str, ...]) -> Any:
    """Reduce a config to what decides a result, with paths relative to ``roots``."""
    if isinstance(node, (dict, ConfigDict)):
        left_out = {'data_root', 'num_workers', 'persistent_workers'}
        return {str(k): _plain(v, roots) for k, v in node.items() if k not in left_out}
    if isinstance(node, (list, tuple)):
        return [_plain(value, roots) for value in node]
    for root in roots:
        if isinstance(node, str) and node.startswith(root):
            return node.removeprefix(root)
    return node


def length(cfg: Config) -> tuple[int, str]:
    """Return the number of iterations or epochs of a training, and 'iter' or 'epoch'."""
    train_cfg = cfg.train_cfg
    if train_cfg.get('max_iters') is not None:
        return int(train_cfg.max_iters), 'iter'
    return int(train_cfg.max_epochs), 'epoch'


def format_option(value: Any) -> str:
    """Format a value for ``--cfg-options KEY=``.

    Raises:
        StudyError: mmengine would read it as another value.
    """
    text = json.dumps(value) if isinstance(value, (list, tuple)) else str(value)
    text = text.replace(' ', '').replace('"', '')
    text = text.replace('null', 'None') if isinstance(value, (list, tuple)) else text
    if DictAction._parse_iterable(text) != value:
        if isinstance(value, str) and re.fullmatch(r'[+-]?[\d.]+e[+-]?\d+', value):
            raise StudyError(
                f'YAML reads {value!r} as text: write a number with a point, and a sign of '
                'the exponent, such as 1.0e-3'
            )
        raise StudyError(
            f'{value!r} cannot be given as an option on the command line: write it into '
            'a config'
        )
    return text


def listed(names: Iterable[Any]) -> str:
    """Join names for a message."""
    return ', '.join(repr(name) for name in names)


def check_keys(
    entry: Any, where: Any, required: Sequence[str], optional: Sequence[str]
) -> None:
    """Raise StudyError when an entry is not a mapping, or a key is missing or unknown."""
    if not isinstance(entry, dict):
        raise StudyError(f'{where}: expected a mapping, got {entry!r}')
    missing = [key for key in required if key not in entry]
    if missing:
        raise StudyError(f'{where}: {listed(missing)} missing')
    unknown = [key for key in entry if key not in (*required, *optional)]
    if unknown:
        raise StudyError(
            f'{where}: unknown key {listed(map(str, unknown))}; there are '
            f'{listed((*required, *optional))}'
        )


def find_file(kind: str, name: Any, where: str, path: Path, root: Path) -> Path:
    """Find a file by its path relative to ``root`` or to the study's file ``path``.

    ``kind`` says in the error what it is: a config or a study.
    """
    for folder in (root, path.parent):
        file = folder / str(name)
        if file.is_file():
            return file
    raise StudyError(f'{where}: no such {kind}: {name} (in {root} or {path.parent})')
