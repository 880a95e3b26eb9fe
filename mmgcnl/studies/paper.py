"""The paper's tables as a study, and the paper's figures for the rows of other studies."""

from __future__ import annotations

from pathlib import Path

import yaml

from .metrics import PAPER_METRICS
from .spec import Study, StudyError, Table, TableRow, Variant, check_keys, find_file, listed

# Keys that are no results of a training: costs, which are counted or timed, and text.
_NOT_TRAINED = {'params', 'flops', 'memory_gb', 'fps'}
_NOT_FIGURES = {'row', 'config', 'dataset', 'shape', 'reproduced', 'misprint', 'note'}


def read_tables(content: list, path: Path, root: Path) -> Study:
    """Read a study from a list of tables, such as configs/paper_tables.yml."""
    rows: dict[str, Variant] = {}
    tables = []
    for entry in content:
        check_keys(entry, path, ('table', 'rows'), ('title', 'dataset', 'note'))
        where = f'{path}, table {entry["table"]!r}'
        lines = []
        keys: dict[str, None] = {}
        for figures in entry['rows']:
            allowed = _NOT_FIGURES | _NOT_TRAINED | PAPER_METRICS.keys()
            check_keys(figures, where, ('row', 'config'), tuple(allowed))
            place = f'{where}, row {figures["row"]!r}'
            config = find_file('config', figures['config'], place, path, root)
            row = rows.setdefault(
                config.stem, Variant(config.stem, config, {}, config.stem)
            )
            if row.config != config:
                raise StudyError(
                    f'{place}: two configs are called {config.stem}: {row.config} and '
                    f'{config}; rename one'
                )
            lines.append(TableRow(row.name, figures['row'], _figures(figures)))
            keys.update((key, None) for key in figures if key in PAPER_METRICS)
        entries = (entry, *entry['rows'])
        tables.append(
            Table(
                name=str(entry['table']),
                title=entry.get('title', ''),
                lines=tuple(lines),
                metrics=tuple(PAPER_METRICS[key] for key in keys),
                note=entry.get('note', ''),
                datasets=tuple(
                    dict.fromkeys(e['dataset'] for e in entries if 'dataset' in e)
                ),
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


def paper_rows(entry: dict, where: str, root: Path) -> dict[str, dict[str, float]]:
    """Return the figures of the table that ``entry`` names, by the rows of the paper."""
    check_keys(entry, f'{where}: paper', ('file', 'table'), ())
    try:
        content = yaml.safe_load((root / entry['file']).read_text(encoding='utf-8'))
    except OSError as error:
        raise StudyError(f'{where}: paper: {error}') from None
    tables = {table['table']: table for table in content}
    if entry['table'] not in tables:
        raise StudyError(
            f'{where}: {entry["file"]} has no table {entry["table"]!r}; it has '
            f'{listed(tables)}'
        )
    return {row['row']: _figures(row) for row in tables[entry['table']]['rows']}


def _figures(row: dict) -> dict[str, float]:
    """Return the paper's figures of a row, by the names of their metrics."""
    return {
        PAPER_METRICS[key].name: value
        for key, value in row.items()
        if key in PAPER_METRICS and isinstance(value, (int, float))
    }
