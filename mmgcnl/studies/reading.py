"""Read a study from its YAML file, and check it before anything runs.

There are two forms. The usual one is a mapping::

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
      - {table: '1', title: ..., rows: [nl, ...], note: ...}
    metrics: {mIoU: {label: mIoU, digits: 1}}
    primary:                      # comparisons that Holm's correction covers
      - {row: full, than: nl, metric: mIoU, expect: higher}
    secondary: [...]
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

from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from .metrics import DISTANCES, MEASURED, Metric, metric_names
from .paper import paper_rows, read_tables
from .spec import (
    Comparison,
    Study,
    StudyError,
    Table,
    TableRow,
    Variant,
    check_keys,
    find_file,
    format_option,
    listed,
)


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
    return _read(Path(path), Path(root), ())


def _read(path: Path, root: Path, repeating: tuple[Path, ...]) -> Study:
    """As ``read_study``, for a study that those in ``repeating`` repeat."""
    try:
        content = yaml.safe_load(path.read_text(encoding='utf-8'))
    except yaml.YAMLError as error:
        raise StudyError(f'{path} is not YAML: {" ".join(str(error).split())}') from None
    if isinstance(content, list):
        study = read_tables(content, path, root)
    elif isinstance(content, dict):
        study = _from_mapping(content, path, root, repeating)
    else:
        raise StudyError(f'{path}: expected a mapping or a list of tables')
    _check_metrics(study)
    return study


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


def _from_mapping(
    content: dict, path: Path, root: Path, repeating: tuple[Path, ...]
) -> Study:
    check_keys(
        content,
        path,
        required=('study', 'rows', 'seeds', 'metrics'),
        optional=(
            'title text csv work_dir prepare environment options tables primary secondary '
            'repeats'
        ).split(),
    )
    repeats = None
    if 'repeats' in content:
        first = find_file('study', content['repeats'], f'{path}', path, root)
        repeating = (*repeating, path.resolve())
        if first.resolve() in repeating:
            raise StudyError(
                f'{path}: repeats={content["repeats"]!r}: that study repeats this one'
            )
        repeats = _read(first, root, repeating)
    rows = _rows(content, path, root, repeats)
    metrics = []
    for name, entry in _mapping(content['metrics'], f'{path}: metrics').items():
        known = DISTANCES.get(name, Metric(name, name))
        entry = entry or {}
        check_keys(entry, f'{path}, metric {name!r}', (), ('label', 'digits', 'factor'))
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
    prepare = content.get('prepare') or ''
    if not isinstance(prepare, str):
        raise StudyError(f'{path}: prepare={prepare!r}: give a command as text')
    environment = content.get('environment') or {}
    if not isinstance(environment, dict):
        raise StudyError(f'{path}: environment={environment!r}: give a mapping')
    environment = {str(k): str(v) for k, v in environment.items()}
    comparisons = {
        kind: tuple(
            _comparison(entry, f'{path}: {kind}', rows) for entry in content.get(kind) or ()
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
        text=str(content.get('text') or '').strip(),
        csv=root / content['csv'] if 'csv' in content else None,
        work_dir=Path(content['work_dir']) if 'work_dir' in content else None,
        prepare=repeats.prepare if repeats else tuple(prepare.split()),
        environment=repeats.environment if repeats else environment,
        repeats=repeats,
        **comparisons,
    )


def _rows(
    content: dict, path: Path, root: Path, repeats: Study | None
) -> dict[str, Variant]:
    if repeats is not None:
        taken = [key for key in ('options', 'prepare', 'environment') if key in content]
        if not isinstance(content['rows'], list) or taken:
            raise StudyError(
                f'{path}: its rows are those of {repeats.path}: list their names in rows, '
                'and give no options, prepare or environment'
            )
        return {row.name: row for row in repeats.select(rows=content['rows'])}
    common = dict(_flat(content.get('options', {}), f'{path}'))
    rows = {}
    for name, entry in _mapping(content['rows'], f'{path}: rows').items():
        where = f'{path}, row {name!r}'
        check_keys(entry, where, ('config',), ('options', 'label'))
        options = {**common, **dict(_flat(entry.get('options', {}), where))}
        config = find_file('config', entry['config'], where, path, root)
        rows[str(name)] = Variant(str(name), config, options, entry.get('label', str(name)))
    return rows


def _table(
    entry: dict,
    path: Path,
    root: Path,
    rows: dict[str, Variant],
    metrics: tuple[Metric, ...],
) -> Table:
    where = f'{path}, table {entry.get("table") if isinstance(entry, dict) else entry!r}'
    check_keys(entry, where, ('table', 'rows'), ('title', 'note', 'paper', 'metrics'))
    labels = entry['rows']
    if not isinstance(labels, dict):
        labels = {name: None for name in labels}
    figures: dict[str, dict] = {}
    if 'paper' in entry:
        figures = paper_rows(entry['paper'], where, root)
    lines = []
    for name, label in labels.items():
        _check_row(name, where, rows)
        if label is not None and label not in figures:
            raise StudyError(
                f'{where}, row {name!r}: the paper has no row {label!r} there; it has '
                f'{listed(figures)}'
            )
        lines.append(TableRow(name, rows[name].label, figures.get(label, {})))
    by_name = {metric.name: metric for metric in metrics}
    for name in entry.get('metrics', ()):
        if name not in by_name:
            raise StudyError(
                f'{where}: metric {name!r} is not among those of the study: '
                f'{listed(by_name)}'
            )
    return Table(
        name=str(entry['table']),
        title=entry.get('title', ''),
        lines=tuple(lines),
        metrics=tuple(by_name[name] for name in entry.get('metrics', by_name)),
        note=entry.get('note', ''),
    )


def _comparison(entry: dict, where: str, rows: dict[str, Variant]) -> Comparison:
    check_keys(entry, where, ('row', 'than', 'metric'), ('expect',))
    for name in (entry['row'], entry['than']):
        _check_row(name, where, rows)
    expect = entry.get('expect', '')
    if expect not in ('', 'higher', 'lower'):
        raise StudyError(f"{where}: expect={expect!r}: give 'higher' or 'lower'")
    return Comparison(entry['row'], entry['than'], entry['metric'], expect)


def _check_metrics(study: Study) -> None:
    """Raise StudyError for a metric that the rows it is asked of do not yield.

    Those of a table or comparison have to be yielded by each of its rows, others by any.
    """
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
                f'the metrics of the study: {listed(labelled)}'
            )
    yielded: set[str] = set()  # by any row
    for name, metrics in asked.items():
        row = study.rows[name]
        try:
            cfg = row.load()
        except Exception as error:  # a config is Python code and can raise anything
            raise StudyError(
                f'{study.path}, row {name!r}: {row.config} cannot be read: '
                f'{type(error).__name__}: {error}'
            ) from error
        known = metric_names(cfg)
        known = {'*'} if known is None else known | set(MEASURED)  # '*': any metric
        yielded |= known
        unknown = sorted(m for m in metrics if not any(fnmatchcase(m, k) for k in known))
        if unknown:
            raise StudyError(
                f'{study.path}, row {name!r}: testing {row.config.name} yields no '
                f'metric {listed(unknown)}; it yields {listed(sorted(known))}'
            )
    unknown = sorted(m for m in labelled if not any(fnmatchcase(m, k) for k in yielded))
    if unknown:
        raise StudyError(
            f'{study.path}: no row yields metric {listed(unknown)} of the metrics; they '
            f'yield {listed(sorted(yielded))}'
        )


def _check_row(name: Any, where: str, rows: dict[str, Variant]) -> None:
    if name not in rows:
        raise StudyError(f'{where}: no row {name!r}; the study has {listed(rows)}')


def _mapping(entry: Any, where: str) -> dict:
    if not isinstance(entry, dict) or not entry:
        raise StudyError(f'{where}: expected a mapping, got {entry!r}')
    return entry


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
