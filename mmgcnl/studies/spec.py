"""What a study is: rows to train, seeds, and what to report, read from a YAML file.

Two forms are read. A study of its own is a mapping::

    study: camvid                 # its name, also in the CSV file
    title: ...                    # heading of the report
    text: ...                     # Markdown below it
    seeds: [0, 1, 2]
    csv: docs/evidence/camvid.csv # optional; default: results.csv in the work dir
    prepare: tools/probe.py data --out {data} --seed {seed}   # optional, once per seed
    environment: {PROBE_ROOT: '{data}/data'}                  # optional
    options: {...}                # optional: options of all rows, as --cfg-options
    rows:
      nl: {config: configs/..., label: non-local, options: {...}}
    tables:                       # optional; default: one table of all rows
      - {table: '1', title: ..., rows: [nl, ...], note: ...}
    metrics: {mIoU: {label: mIoU, digits: 1}}
    primary:                      # comparisons that Holm's correction covers
      - {row: full, than: nl, metric: mIoU, expect: higher}
    secondary: [...]

``{data}`` is a folder in the work dir that belongs to the seed. A table can quote the
paper beside its rows: ``paper: {file: configs/paper_tables.yml, table: '1'}`` with
``rows: {nl: nl, full: 'full (+dropout)'}``, from the study's rows to the paper's.

The other form is a list of tables whose rows have a ``config`` and the paper's figures, as
configs/paper_tables.yml. A config that stands in several tables is one row.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from mmengine.config import Config, ConfigDict, DictAction

#: What is measured of every run besides the metrics of its config. The distances exist
#: only for models with non-local blocks; those at iteration 0 end in ``_initial``.
MEASURED = (
    'train_seconds',
    'seconds_per_iteration',
    'peak_memory_mib',
    *(
        f'cos_{kind}{when}'
        for when in ('', '_initial')
        for kind in ('input', 'output', 'att')
    ),
)


@dataclass(frozen=True)
class Metric:
    """How a metric is reported: its value is multiplied by ``factor``."""

    name: str
    label: str
    digits: int = 1
    factor: float = 1.0


_DISTANCES = {
    name: Metric(name, f'dist. {what}', 3)
    for name, what in (
        ('cos_input', 'input'),
        ('cos_output', 'output'),
        ('cos_att', 'attention'),
        ('cos_input_initial', 'input, iteration 0'),
        ('cos_output_initial', 'output, iteration 0'),
        ('cos_att_initial', 'attention, iteration 0'),
    )
}
#: The metrics behind the figures that the paper prints, by their keys in
#: configs/paper_tables.yml.
PAPER_METRICS = {
    'pixAcc': Metric('aAcc', 'pixAcc', 2),
    'mIoU': Metric('mIoU', 'mIoU', 2),
    **{
        f'{kind}{threshold}': Metric(
            f'coco/{kind}_mAP{threshold}',
            f'{what} AP{threshold.removeprefix("_")}',
            1,
            100.0,
        )
        for kind, what in (('bbox', 'box'), ('segm', 'mask'))
        for threshold in ('', '_50', '_75')
    },
    'PQ': Metric('coco_panoptic/PQ', 'PQ', 1),
    'PQ_th': Metric('coco_panoptic/PQ_th', 'PQ things', 1),
    'PQ_st': Metric('coco_panoptic/PQ_st', 'PQ stuff', 1),
    **{name: _DISTANCES[name] for name in ('cos_input', 'cos_output', 'cos_att')},
}
# Costs, which are counted or timed and not trained for, and what is not a figure.
_NOT_TRAINED = {'params', 'flops', 'memory_gb', 'fps'}
_NOT_FIGURES = {'row', 'config', 'dataset', 'shape', 'reproduced', 'misprint', 'note'}


class StudyError(ValueError):
    """The study asks for something that does not exist or cannot be run."""


@dataclass(frozen=True)
class Row:
    """What is trained: a config and options that override its settings."""

    name: str
    config: Path
    options: dict[str, Any] = field(default_factory=dict)
    label: str = ''

    def load(self, seed: int = 0) -> Config:
        """The config with the options and the seed merged into it."""
        cfg = Config.fromfile(self.config)
        cfg.merge_from_dict({**self.options, 'randomness.seed': seed})
        return cfg

    def arguments(self, seed: int) -> list[str]:
        """The options and the seed as they are written behind ``--cfg-options``."""
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
    """A table of the report; ``metrics`` are its columns."""

    name: str
    title: str
    lines: tuple[Line, ...]
    metrics: tuple[Metric, ...]
    note: str = ''
    dataset: str = ''


@dataclass(frozen=True)
class Comparison:
    """Row minus other row, paired by seed.

    Attributes:
        expect: The prediction written down before the runs: 'higher', 'lower' or, where
            there is none, ''.
    """

    row: str
    than: str
    metric: str
    expect: str = ''


@dataclass(frozen=True)
class Study:
    """See the docstring of this module for the fields."""

    name: str
    path: Path
    rows: dict[str, Row]
    tables: tuple[Table, ...]
    metrics: tuple[Metric, ...]
    seeds: tuple[int, ...] = (0,)
    title: str = ''
    text: str = ''
    csv: Path | None = None
    prepare: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    primary: tuple[Comparison, ...] = ()
    secondary: tuple[Comparison, ...] = ()

    def select(
        self, table: str | None = None, rows: Sequence[str] | None = None
    ) -> list[Row]:
        """The rows of a table, or those named by ``rows``, each once.

        Raises:
            StudyError: There is no such table or row.
        """
        names = list(self.rows)
        if table is not None:
            lines = [line for t in self.tables if t.name == table for line in t.lines]
            if not lines:
                raise StudyError(
                    f'{self.path}: no table {table!r}; the study has '
                    f'{_listed(t.name for t in self.tables)}'
                )
            names = list(dict.fromkeys(line.row for line in lines))
            # In a table of the paper, a row may be called what the paper calls it.
            aliases = {line.label: line.row for line in lines}
            rows = rows and [aliases.get(name, name) for name in rows]
        for name in rows or ():
            if name not in names:
                raise StudyError(
                    f'{self.path}: no row {name!r}'
                    + (f' in table {table!r}' if table is not None else '')
                    + f'; there are {_listed(names)}'
                )
        return [self.rows[name] for name in dict.fromkeys(rows or names)]


def read_study(path: str | Path, root: str | Path) -> Study:
    """Read and check a study.

    Args:
        path: The YAML file.
        root: Folder that paths in the file are relative to, of the checkout or of the
            installed tools and configs. A config is also found beside the file.

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
        study = _from_tables(content, path, root)
    elif isinstance(content, dict):
        study = _from_mapping(content, path, root)
    else:
        raise StudyError(f'{path}: expected a mapping or a list of tables')
    _check_metrics(study)
    return study


def digest(cfg: Config) -> str:
    """8 hexadecimal digits that change with what decides a run's result.

    The seed, the places of the data, and what is logged, drawn or saved are left out.
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
    text = json.dumps(_plain(content), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _plain(node: Any) -> Any:
    if isinstance(node, (dict, ConfigDict)):
        left_out = {'data_root', 'num_workers', 'persistent_workers', 'ann_file'}
        return {str(k): _plain(v) for k, v in node.items() if k not in left_out}
    if isinstance(node, (list, tuple)):
        return [_plain(value) for value in node]
    return node


def length(cfg: Config) -> tuple[int, str]:
    """The iterations or epochs of a training, and 'iter' or 'epoch'."""
    train_cfg = cfg.train_cfg
    if train_cfg.get('max_iters') is not None:
        return int(train_cfg.max_iters), 'iter'
    return int(train_cfg.max_epochs), 'epoch'


def metric_names(cfg: Config) -> set[str] | None:
    """The metrics that testing a config yields; None if an evaluator is not known here."""
    evaluators = cfg.get('test_evaluator')
    if not isinstance(evaluators, (list, tuple)):
        evaluators = [evaluators]
    found: set[str] = set()
    for evaluator in evaluators:
        kind = str((evaluator or {}).get('type')).split('.')[-1]
        if kind not in _NAMES_OF:
            return None
        default, names = _NAMES_OF[kind]
        prefix = evaluator.get('prefix') or default
        found |= {f'{prefix}/{n}' if prefix else n for n in names(evaluator)}
    return found


def _names_of_iou(evaluator: Mapping) -> set[str]:
    kinds = evaluator.get('iou_metrics', ['mIoU'])
    found = {'aAcc'}
    for kind in [kinds] if isinstance(kinds, str) else kinds:
        found |= {
            'mIoU': {'mIoU', 'mAcc'},
            'mDice': {'mDice', 'mAcc'},
            'mFscore': {'mFscore', 'mPrecision', 'mRecall'},
        }.get(kind, set())
    return found


def _names_of_coco(evaluator: Mapping) -> set[str]:
    kinds = evaluator.get('metric', 'bbox')
    return {
        f'{kind}_mAP{suffix}'
        for kind in ([kinds] if isinstance(kinds, str) else kinds)
        for suffix in ('', '_50', '_75', '_s', '_m', '_l')
    }


def _names_of_subsets(evaluator: Mapping) -> set[str]:
    overall = {'aAcc', 'mIoU', *(f'mIoU_{name}' for name in evaluator.get('classes', {}))}
    groups = {f'{group}/{n}' for group in evaluator.get('images', {}) for n in overall}
    return {*overall, *groups, 'mAcc'}


# Type of an evaluator -> its default prefix, and its metrics from its config.
_NAMES_OF: dict[str, tuple[str, Any]] = {
    'IoUMetric': ('', _names_of_iou),
    'SubsetIoUMetric': ('', _names_of_subsets),
    'CocoMetric': ('coco', _names_of_coco),
    'PanopticQuality': (
        'coco_panoptic',
        lambda _: {f'{q}{s}' for q in ('PQ', 'SQ', 'RQ') for s in ('', '_th', '_st')},
    ),
    'ProbeMetric': ('probe', lambda _: {'side', 'lamp'}),
}


def format_option(value: Any) -> str:
    """A value as it is written behind ``KEY=``.

    Raises:
        StudyError: mmengine would read another value from it.
    """
    text = json.dumps(value) if isinstance(value, (list, tuple)) else str(value)
    text = text.replace(' ', '').replace('"', '')
    text = text.replace('null', 'None') if isinstance(value, (list, tuple)) else text
    if DictAction._parse_iterable(text) != value:
        raise StudyError(
            f'{value!r} cannot be given as an option on the command line: write it into '
            'a config'
        )
    return text


def _flat(options: Any, where: str, prefix: str = '') -> Iterator[tuple[str, Any]]:
    if not isinstance(options, dict):
        raise StudyError(f'{where}: options={options!r}: give a mapping')
    for key, value in options.items():
        if isinstance(value, dict):
            yield from _flat(value, where, f'{prefix}{key}.')
            continue
        try:
            format_option(value)
        except StudyError as error:
            raise StudyError(f'{where}, option {prefix}{key}: {error}') from None
        yield f'{prefix}{key}', value


def _from_mapping(content: dict, path: Path, root: Path) -> Study:
    _check_keys(
        content,
        path,
        required=('study', 'rows', 'seeds', 'metrics'),
        optional=(
            'title text csv prepare environment options tables primary secondary'
        ).split(),
    )
    common = dict(_flat(content.get('options', {}), f'{path}'))
    rows = {}
    for name, entry in _mapping(content['rows'], f'{path}: rows').items():
        where = f'{path}, row {name!r}'
        _check_keys(entry, where, ('config',), ('options', 'label'))
        options = {**common, **dict(_flat(entry.get('options', {}), where))}
        config = _find_config(entry['config'], where, path, root)
        rows[str(name)] = Row(str(name), config, options, entry.get('label', str(name)))

    metrics = []
    for name, entry in _mapping(content['metrics'], f'{path}: metrics').items():
        known = _DISTANCES.get(name, Metric(name, name))
        entry = entry or {}
        _check_keys(entry, f'{path}, metric {name!r}', (), ('label', 'digits', 'factor'))
        metrics.append(
            Metric(
                name,
                entry.get('label', known.label),
                entry.get('digits', known.digits),
                entry.get('factor', known.factor),
            )
        )

    seeds = content['seeds']
    if not isinstance(seeds, list) or not seeds or not all(map(_is_whole, seeds)):
        raise StudyError(f'{path}: seeds={seeds!r}: give a list of whole numbers')
    if len(set(seeds)) < len(seeds):
        raise StudyError(f'{path}: seeds={seeds!r}: give each seed once')

    tables = [
        _table(entry, path, root, rows, tuple(metrics))
        for entry in content.get('tables') or [dict(table='', rows=list(rows))]
    ]
    comparisons = {
        kind: tuple(
            _comparison(entry, f'{path}: {kind}', rows) for entry in content.get(kind, ())
        )
        for kind in ('primary', 'secondary')
    }
    return Study(
        name=str(content['study']),
        path=path,
        rows=rows,
        tables=tuple(tables),
        metrics=tuple(metrics),
        seeds=tuple(seeds),
        title=content.get('title', str(content['study'])),
        text=content.get('text', '').strip(),
        csv=root / content['csv'] if 'csv' in content else None,
        prepare=tuple(content.get('prepare', '').split()),
        environment=dict(content.get('environment', {})),
        **comparisons,
    )


def _table(
    entry: dict, path: Path, root: Path, rows: dict[str, Row], metrics: tuple[Metric, ...]
) -> Table:
    where = f'{path}, table {entry.get("table") if isinstance(entry, dict) else entry!r}'
    _check_keys(entry, where, ('table', 'rows'), ('title', 'note', 'paper', 'metrics'))
    labels = entry['rows']
    if not isinstance(labels, dict):
        labels = {name: None for name in labels}
    figures: dict[str, dict] = {}
    if 'paper' in entry:
        figures = _paper_rows(entry['paper'], where, root)
    lines = []
    for name, label in labels.items():
        _check_row(name, where, rows)
        if label is not None and label not in figures:
            raise StudyError(
                f'{where}, row {name!r}: the paper has no row {label!r} there; it has '
                f'{_listed(figures)}'
            )
        lines.append(Line(name, rows[name].label, figures.get(label, {})))
    by_name = {metric.name: metric for metric in metrics}
    for name in entry.get('metrics', ()):
        if name not in by_name:
            raise StudyError(
                f'{where}: metric {name!r} is not among those of the study: '
                f'{_listed(by_name)}'
            )
    return Table(
        name=str(entry['table']),
        title=entry.get('title', ''),
        lines=tuple(lines),
        metrics=tuple(by_name[name] for name in entry.get('metrics', by_name)),
        note=entry.get('note', ''),
    )


def _paper_rows(entry: dict, where: str, root: Path) -> dict[str, dict[str, float]]:
    _check_keys(entry, f'{where}: paper', ('file', 'table'), ())
    try:
        content = yaml.safe_load((root / entry['file']).read_text(encoding='utf-8'))
    except OSError as error:
        raise StudyError(f'{where}: paper: {error}') from None
    tables = {table['table']: table for table in content}
    if entry['table'] not in tables:
        raise StudyError(
            f'{where}: {entry["file"]} has no table {entry["table"]!r}; it has '
            f'{_listed(tables)}'
        )
    return {row['row']: _figures(row) for row in tables[entry['table']]['rows']}


def _figures(row: dict) -> dict[str, float]:
    """The paper's figures of a row by the names of their metrics."""
    return {
        PAPER_METRICS[key].name: value
        for key, value in row.items()
        if key in PAPER_METRICS and isinstance(value, (int, float))
    }


def _comparison(entry: dict, where: str, rows: dict[str, Row]) -> Comparison:
    _check_keys(entry, where, ('row', 'than', 'metric'), ('expect',))
    for name in (entry['row'], entry['than']):
        _check_row(name, where, rows)
    expect = entry.get('expect', '')
    if expect not in ('', 'higher', 'lower'):
        raise StudyError(f"{where}: expect={expect!r}: give 'higher' or 'lower'")
    return Comparison(entry['row'], entry['than'], entry['metric'], expect)


def _from_tables(content: list, path: Path, root: Path) -> Study:
    rows: dict[str, Row] = {}
    tables = []
    for entry in content:
        _check_keys(entry, path, ('table', 'rows'), ('title', 'dataset', 'note'))
        where = f'{path}, table {entry["table"]!r}'
        lines = []
        keys: dict[str, None] = {}
        for figures in entry['rows']:
            allowed = _NOT_FIGURES | _NOT_TRAINED | PAPER_METRICS.keys()
            _check_keys(figures, where, ('row', 'config'), tuple(allowed))
            place = f'{where}, row {figures["row"]!r}'
            config = _find_config(figures['config'], place, path, root)
            row = rows.setdefault(config.stem, Row(config.stem, config, {}, config.stem))
            if row.config != config:
                raise StudyError(
                    f'{place}: two configs are called {config.stem}: {row.config} and '
                    f'{config}; rename one'
                )
            lines.append(Line(row.name, figures['row'], _figures(figures)))
            keys.update((key, None) for key in figures if key in PAPER_METRICS)
        tables.append(
            Table(
                name=str(entry['table']),
                title=entry.get('title', ''),
                lines=tuple(lines),
                metrics=tuple(PAPER_METRICS[key] for key in keys),
                note=entry.get('note', ''),
                dataset=entry.get('dataset', ''),
            )
        )
    metrics = {metric.name: metric for table in tables for metric in table.metrics}
    return Study(
        name=path.stem,
        path=path,
        rows=rows,
        tables=tuple(tables),
        metrics=tuple(metrics.values()),
        title="The paper's tables",
    )


def _find_config(name: Any, where: str, path: Path, root: Path) -> Path:
    for folder in (root, path.parent):
        config = folder / str(name)
        if config.is_file():
            return config
    raise StudyError(f'{where}: no such config: {name} (in {root} or {path.parent})')


def _check_metrics(study: Study) -> None:
    """Name the metrics that no row, or one that is compared, will have."""
    asked: dict[str, set[str]] = {}  # by row
    for table in study.tables:
        for line in table.lines:
            asked.setdefault(line.row, set()).update(m.name for m in table.metrics)
    for comparison in (*study.primary, *study.secondary):
        for row in (comparison.row, comparison.than):
            asked.setdefault(row, set()).add(comparison.metric)
    labelled = {metric.name for metric in study.metrics}
    for comparison in (*study.primary, *study.secondary):
        if comparison.metric not in labelled:
            raise StudyError(
                f'{study.path}: metric {comparison.metric!r} is compared, but not among '
                f'the metrics of the study: {_listed(labelled)}'
            )
    for name, metrics in asked.items():
        row = study.rows[name]
        try:
            cfg = row.load()
        except Exception as error:  # whatever a config runs into as Python code
            raise StudyError(
                f'{study.path}, row {name!r}: {row.config} cannot be read: '
                f'{type(error).__name__}: {error}'
            ) from error
        known = metric_names(cfg)
        if known is None:
            continue
        known |= set(MEASURED)
        unknown = sorted(metrics - known)
        if unknown:
            raise StudyError(
                f'{study.path}, row {name!r}: testing {row.config.name} yields no '
                f'metric {_listed(unknown)}; it yields {_listed(sorted(known))}'
            )


def _check_keys(
    entry: Any, where: Any, required: Sequence[str], optional: Sequence[str]
) -> None:
    if not isinstance(entry, dict):
        raise StudyError(f'{where}: expected a mapping, got {entry!r}')
    missing = [key for key in required if key not in entry]
    if missing:
        raise StudyError(f'{where}: {_listed(missing)} missing')
    unknown = [key for key in entry if key not in (*required, *optional)]
    if unknown:
        raise StudyError(
            f'{where}: unknown key {_listed(map(str, unknown))}; there are '
            f'{_listed((*required, *optional))}'
        )


def _check_row(name: Any, where: str, rows: dict[str, Row]) -> None:
    if name not in rows:
        raise StudyError(f'{where}: no row {name!r}; the study has {_listed(rows)}')


def _mapping(entry: Any, where: str) -> dict:
    if not isinstance(entry, dict) or not entry:
        raise StudyError(f'{where}: expected a mapping, got {entry!r}')
    return entry


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _listed(names: Any) -> str:
    return ', '.join(repr(name) for name in names)
