"""What a study is, and its YAML file.

A file has one of two forms. The usual one is a mapping::

    study: camvid                 # its name, also in the CSV file
    title: ...                    # heading of the report
    text: ...                     # Markdown below it
    seeds: [0, 1, 2]
    csv: docs/evidence/camvid.csv # optional; default: results.csv in the work dir
    work_dir: work_dirs/camvid    # optional; default: work_dirs/studies/NAME
    prepare: tools/probe.py data --out {data} --seed {seed}   # optional, once per seed
    environment: {PROBE_ROOT: '{data}'}                       # optional
    options: {...}                # optional: options of all rows, as --cfg-options
    rows:
      nl: {config: configs/..., label: non-local, options: {...}}
    tables:                       # optional; default: one table of all rows
      - {table: '1', title: ..., rows: [nl, ...], metrics: [mIoU], note: ...}
    metrics: {mIoU: {label: mIoU, digits: 1}}
    primary:                      # comparisons that Holm's correction covers
      - {row: full, than: nl, metric: mIoU, expect: higher}
    secondary: [...]
    ablated: [mIoU]               # metrics reported without each prior; default: the first
    repeats: configs/studies/...  # optional: a study that has these rows, too

``{data}`` is a folder in the work dir that belongs to the seed. A table can quote the
paper beside its rows: ``paper: {file: configs/paper_tables.yml, table: '1'}`` with
``rows: {nl: nl, full: 'full (+dropout)'}``, from the study's rows to the paper's.

A study that repeats runs of another one lists its rows by name, ``rows: [nl, full]``, and
takes their options, data and environment from there. Its report compares the runs that have
the same seed.

The other form is a list of tables whose rows have a ``config`` and the paper's figures, as
configs/paper_tables.yml. A config that stands in several tables is one row.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from mmengine.config import Config, DictAction

from mmgcnl.evaluation.metric_labels import COSTS, DISTANCES, PAPER_METRICS, Metric
from mmgcnl.utils.cli import read_config

# What the rows of configs/paper_tables.yml have besides figures.
_NOT_FIGURES = ('dataset', 'shape', 'reproduced', 'misprint', 'note')
# What decides the result of a training, in its config.
_DECISIVE = (
    'model train_dataloader test_dataloader test_evaluator optim_wrapper param_scheduler '
    'train_cfg test_cfg auto_scale_lr custom_hooks'
).split()
_INDECISIVE = ('data_root', 'num_workers', 'persistent_workers')


class StudyError(ValueError):
    """The study asks for something that does not exist or cannot be run."""


@dataclass(frozen=True)
class Variant:
    """A row of a study: a config to train, with options that override its settings."""

    name: str
    config: Path
    options: dict[str, Any] = field(default_factory=dict)
    label: str = ''

    def load(self, seed: int = 0) -> Config:
        """Load the config and merge the options and the seed into it.

        Raises:
            StudyError: It cannot be read.
        """
        try:
            return read_config(str(self.config), {**self.options, 'randomness.seed': seed})
        except Exception as error:  # a config is Python code and can raise anything
            reason = f'{type(error).__name__}: {error}'
            raise StudyError(f'{self.config} cannot be read: {reason}') from error

    def arguments(self, seed: int) -> list[str]:
        """Return the options and the seed as arguments of ``--cfg-options``."""
        options = {**self.options, 'randomness.seed': seed}
        return [f'{key}={format_option(value)}' for key, value in options.items()]


@dataclass(frozen=True)
class TableRow:
    """A row of a table: the name of a variant, and the paper's figures for it."""

    row: str
    label: str
    paper: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """A table of the report; ``metrics`` are its columns, ``datasets`` the paper's."""

    name: str
    title: str
    rows: tuple[TableRow, ...]
    metrics: tuple[Metric, ...]
    note: str = ''
    datasets: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """A row minus another row, paired by seed."""

    row: str
    than: str
    metric: str
    expect: str = ''  # 'higher' or 'lower', written down before the runs


@dataclass(frozen=True)
class Study:
    """A study; the docstring of the module describes its fields."""

    name: str
    path: Path
    rows: dict[str, Variant]
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
    ablated: tuple[str, ...] = ()
    repeats: Study | None = None

    @property
    def folder(self) -> Path:
        """Where its runs are kept, unless the command says otherwise."""
        return self.work_dir or Path('work_dirs/studies') / self.name

    def select(
        self, table: str | None = None, rows: Sequence[str] | None = None
    ) -> list[Variant]:
        """Return the rows of a table, or those named by ``rows``, each once.

        Raises:
            StudyError: There is no such table or row.
        """
        known: Iterable[str] = self.rows
        if table is not None:
            found = [row for t in self.tables if t.name == table for row in t.rows]
            if not found:
                _find(table, [t.name for t in self.tables], f'{self.path}: table')
            known = dict.fromkeys(row.row for row in found)
            # In the paper's tables, rows can also be chosen by their labels.
            labels = {row.label: row.row for row in found}
            rows = rows and [labels.get(name, name) for name in rows]
        for name in rows or ():
            _find(name, known, f'{self.path}: row')
        return [self.rows[name] for name in dict.fromkeys(rows or known)]


def read_study(
    path: str | Path, root: str | Path, repeating: tuple[Path, ...] = ()
) -> Study:
    """Read and check a study. Configs are only read when they are to be run.

    Args:
        path: The YAML file.
        root: Folder that paths in the file are relative to, of the checkout or of the
            installed tools and configs. A config is also found beside the file.
        repeating: The studies that repeat this one.

    Raises:
        StudyError: The file is faulty: an unknown key, config, row or metric is named.
        FileNotFoundError: There is no such file.
    """
    path, root = Path(path), Path(root)
    try:
        content = yaml.safe_load(path.read_text(encoding='utf-8'))
    except yaml.YAMLError as error:
        raise StudyError(f'{path} is not YAML: {" ".join(str(error).split())}') from None
    if isinstance(content, list):
        return _read_tables(content, path, root)
    _check_keys(
        content,
        path,
        required='study rows seeds metrics',
        optional='title text csv work_dir prepare environment options tables primary '
        'secondary ablated repeats',
    )
    repeats = None
    if 'repeats' in content:
        first = _find_file('study', content['repeats'], path, path, root)
        repeating = (*repeating, path.resolve())
        if first.resolve() in repeating:
            raise StudyError(
                f'{path}: repeats={content["repeats"]!r}: that study repeats this one'
            )
        repeats = read_study(first, root, repeating)
    seeds = content['seeds']
    whole = isinstance(seeds, list) and all(type(s) is int and s >= 0 for s in seeds)
    if not (whole and seeds and len(set(seeds)) == len(seeds)):
        raise StudyError(f'{path}: seeds={seeds!r}: give different whole numbers')
    prepare = content.get('prepare') or ''
    if not isinstance(prepare, str):
        raise StudyError(f'{path}: prepare={prepare!r}: give a command as text')
    environment = _mapping(content.get('environment') or {}, f'{path}: environment')
    environment = {str(key): str(value) for key, value in environment.items()}
    rows = _read_rows(content, path, root, repeats)
    metrics = _read_metrics(content['metrics'], path)
    tables = content.get('tables') or [dict(table='', rows=list(rows))]
    comparisons = {
        kind: tuple(
            _read_comparison(entry, f'{path}: {kind}', rows, metrics)
            for entry in content.get(kind) or ()
        )
        for kind in ('primary', 'secondary')
    }
    return Study(
        name=str(content['study']),
        path=path,
        rows=rows,
        tables=tuple(_read_table(entry, path, root, rows, metrics) for entry in tables),
        metrics=tuple(metrics.values()),
        seeds=tuple(seeds),
        title=content.get('title', str(content['study'])),
        text=str(content.get('text') or '').strip(),
        csv=root / content['csv'] if 'csv' in content else None,
        work_dir=Path(content['work_dir']) if 'work_dir' in content else None,
        prepare=repeats.prepare if repeats else tuple(prepare.split()),
        environment=repeats.environment if repeats else environment,
        ablated=tuple(
            _find(name, metrics, f'{path}: ablated: metric')
            for name in content.get('ablated') or list(metrics)[:1]
        ),
        repeats=repeats,
        **comparisons,
    )


def _read_rows(
    content: dict, path: Path, root: Path, repeats: Study | None
) -> dict[str, Variant]:
    if repeats is not None:
        taken = content.keys() & {'options', 'prepare', 'environment'}
        if not isinstance(content['rows'], list) or taken:
            raise StudyError(
                f'{path}: its rows are those of {repeats.path}: list their names in rows, '
                'and give no options, prepare or environment'
            )
        return {row.name: row for row in repeats.select(rows=content['rows'])}
    common = dict(_flat(content.get('options', {}), f'{path}'))
    rows = {}
    for name, entry in _mapping(content['rows'], f'{path}: rows').items():
        name, where = str(name), f'{path}, row {name!r}'
        _check_keys(entry, where, 'config', 'options label')
        options = {**common, **dict(_flat(entry.get('options', {}), where))}
        config = _find_file('config', entry['config'], where, path, root)
        rows[name] = Variant(name, config, options, entry.get('label', name))
    return rows


def _flat(options: Any, where: str, prefix: str = '') -> Iterator[tuple[str, Any]]:
    for key, value in _mapping(options, f'{where}: options').items():
        if isinstance(value, dict):
            yield from _flat(value, where, f'{prefix}{key}.')
            continue
        try:
            format_option(value)
        except StudyError as error:
            raise StudyError(f'{where}, option {prefix}{key}: {error}') from None
        yield f'{prefix}{key}', value


def _read_metrics(content: Any, path: Path) -> dict[str, Metric]:
    metrics = {}
    for name, entry in _mapping(content, f'{path}: metrics').items():
        entry = entry or {}
        _check_keys(entry, f'{path}, metric {name!r}', '', 'label digits factor')
        known = DISTANCES.get(name, Metric(name, name))
        metrics[name] = Metric(**{**vars(known), **entry})
    return metrics


def _read_table(
    entry: Any, path: Path, root: Path, rows: dict[str, Variant], metrics: dict[str, Metric]
) -> Table:
    where = f'{path}, table {entry.get("table") if isinstance(entry, dict) else entry!r}'
    _check_keys(entry, where, 'table rows', 'title note paper metrics')
    figures: dict[Any, dict[str, str]] = {}
    if 'paper' in entry:
        figures = _paper_rows(entry['paper'], where, root)
    found = []
    for name in entry['rows']:  # a mapping to the rows of the paper, or a list
        variant = rows[_find(name, rows, f'{where}: row')]
        quoted = entry['rows'][name] if isinstance(entry['rows'], dict) else None
        if quoted is not None:
            _find(quoted, figures, f'{where}, row {name!r}: row of the paper')
        found.append(TableRow(name, variant.label, figures.get(quoted, {})))
    columns = entry.get('metrics', metrics)
    return Table(
        name=str(entry['table']),
        title=entry.get('title', ''),
        rows=tuple(found),
        metrics=tuple(metrics[_find(m, metrics, f'{where}: metric')] for m in columns),
        note=entry.get('note', ''),
    )


def _read_comparison(
    entry: Any, where: str, rows: dict[str, Variant], metrics: dict[str, Metric]
) -> Comparison:
    _check_keys(entry, where, 'row than metric', 'expect')
    for name in (entry['row'], entry['than']):
        _find(name, rows, f'{where}: row')
    _find(entry['metric'], metrics, f'{where}: metric')
    if entry.get('expect', '') not in ('', 'higher', 'lower'):
        raise StudyError(f"{where}: expect={entry['expect']!r}: give 'higher' or 'lower'")
    return Comparison(**entry)


def _read_tables(content: list, path: Path, root: Path) -> Study:
    """Read a study from a list of tables, such as configs/paper_tables.yml."""
    rows: dict[str, Variant] = {}
    tables = []
    for entry in content:
        _check_keys(entry, path, 'table rows', 'title dataset note')
        where = f'{path}, table {entry["table"]!r}'
        found = []
        for row in entry['rows']:
            optional = (*_NOT_FIGURES, *COSTS, *PAPER_METRICS)
            _check_keys(row, where, 'row config', ' '.join(optional))
            place = f'{where}, row {row["row"]!r}'
            config = _find_file('config', row['config'], place, path, root)
            name = config.stem
            if rows.setdefault(name, Variant(name, config, label=name)).config != config:
                raise StudyError(
                    f'{place}: two configs are called {name}: {rows[name].config} and '
                    f'{config}; rename one'
                )
            found.append(TableRow(name, row['row'], _figures(row)))
        keys = dict.fromkeys(key for row in entry['rows'] for key in row)
        datasets = [e['dataset'] for e in (entry, *entry['rows']) if 'dataset' in e]
        tables.append(
            Table(
                name=str(entry['table']),
                title=entry.get('title', ''),
                rows=tuple(found),
                metrics=tuple(PAPER_METRICS[key] for key in keys if key in PAPER_METRICS),
                note=entry.get('note', ''),
                datasets=tuple(dict.fromkeys(datasets)),
            )
        )
    return Study(
        name=path.stem,
        path=path,
        rows=rows,
        tables=tuple(tables),
        metrics=tuple(dict.fromkeys(m for table in tables for m in table.metrics)),
        ablated=tuple(m.name for table in tables for m in table.metrics),
        title="The paper's tables",
    )


def _paper_rows(entry: Any, where: str, root: Path) -> dict[str, dict[str, str]]:
    """Return the figures of the table that ``entry`` names, by the rows of the paper."""
    _check_keys(entry, f'{where}: paper', 'file table', '')
    try:
        content = yaml.safe_load((root / entry['file']).read_text(encoding='utf-8'))
    except OSError as error:
        raise StudyError(f'{where}: paper: {error}') from None
    tables = {table['table']: table['rows'] for table in content}
    name = _find(entry['table'], tables, f'{where}: table of {entry["file"]}')
    return {row['row']: _figures(row) for row in tables[name]}


def _figures(row: dict) -> dict[str, str]:
    """Return the paper's figures of a row, by the names of their metrics."""
    return {
        PAPER_METRICS[key].name: PAPER_METRICS[key].format_printed(value)
        for key, value in row.items()
        if key in PAPER_METRICS and isinstance(value, (int, float))
    }


def digest(cfg: Config) -> str:
    """Return 8 hexadecimal digits that change with the settings that decide a result.

    They leave out the seed, where the data is, and what is logged, drawn or saved.
    """
    roots: dict[str, None] = {}

    def reduce(node: dict[str, Any]) -> dict[str, Any]:
        if node.get('data_root'):
            roots[node['data_root'].rstrip('/') + '/'] = None
        return {key: value for key, value in node.items() if key not in _INDECISIVE}

    content = {key: cfg.get(key) for key in _DECISIVE}
    if cfg.get('load_from'):
        content['load_from'] = cfg.load_from
    content = json.loads(json.dumps(content, default=str), object_hook=reduce)
    text = json.dumps(content, sort_keys=True)
    if roots:  # paths are relative to them
        starts = '|'.join(re.escape(json.dumps(root)[1:-1]) for root in roots)
        text = re.sub(f'"({starts})', '"', text)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def training_length(cfg: Config) -> tuple[int, str]:
    """Return the number of iterations or epochs of a training, and 'iter' or 'epoch'."""
    if cfg.train_cfg.get('max_iters') is not None:
        return int(cfg.train_cfg.max_iters), 'iter'
    return int(cfg.train_cfg.max_epochs), 'epoch'


def format_option(value: Any) -> str:
    """Format a value for ``--cfg-options KEY=``.

    Raises:
        StudyError: mmengine would read it as another value.
    """
    text = str(value)
    if isinstance(value, (list, tuple)):
        text = json.dumps(value).replace('null', 'None')
    text = text.replace(' ', '').replace('"', '')
    found = DictAction._parse_iterable(text)
    if found != value:
        raise StudyError(
            f'{value!r} would become {found!r} on the command line: write it into a '
            'config. YAML reads a number without a point, as 1e-3, as text: write 1.0e-3'
        )
    return text


def _find(name: Any, known: Iterable[Any], what: str) -> Any:
    """Return ``name``, or raise StudyError if it is not among the known ones."""
    if name not in known:
        raise StudyError(f'{what} {name!r} does not exist; there are {_listed(known)}')
    return name


def _listed(names: Iterable[Any]) -> str:
    return ', '.join(map(repr, names)) or 'none'


def _mapping(entry: Any, where: Any) -> dict:
    if not isinstance(entry, dict):
        raise StudyError(f'{where}: expected a mapping, got {entry!r}')
    return entry


def _check_keys(entry: Any, where: Any, required: str, optional: str) -> None:
    """Raise StudyError when an entry is not a mapping, or a key is missing or unknown."""
    known = [*required.split(), *optional.split()]
    missing = [key for key in required.split() if key not in _mapping(entry, where)]
    if missing:
        raise StudyError(f'{where}: {_listed(missing)} missing')
    for key in entry:
        _find(key, known, f'{where}: key')


def _find_file(kind: str, name: Any, where: Any, path: Path, root: Path) -> Path:
    """Find a file by its path relative to ``root`` or to the study's file ``path``.

    ``kind`` says in the error what it is: a config or a study.
    """
    for folder in (root, path.parent):
        file = folder / str(name)
        if file.is_file():
            return file
    raise StudyError(f'{where}: no such {kind}: {name} (in {root} or {path.parent})')
