"""A study as Markdown: tables with every seed, and paired comparisons."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mmgcnl.analysis import ABLATIONS

from .comparisons import Difference, holm, paired_difference, prediction_interval
from .metrics import MEASURED, Metric, format_value
from .repeats import compare_repeats
from .results import Results
from .spec import Comparison, Table

# Data sets of the paper's tables whose annotations are only on the benchmark's server.
_ON_A_SERVER = {'coco_test_dev': 'COCO test-dev', 'cityscapes': 'Cityscapes'}


def render(
    results: Results,
    plot: str | None = None,
    first: Results | None = None,
) -> str:
    """Write the report of a study.

    Args:
        results: Its results so far.
        plot: Path of the picture to show, relative to the report; None for none.
        first: Results of the study whose runs it repeats, to compare with.
    """
    study = results.study
    lines = [f'## {study.title}', '']
    if study.text:
        lines += [study.text, '']
    lines += [*_progress(results), '']
    for table in study.tables if results.runs else ():
        lines += [*_table(results, table, 3), '']
    for name, comparisons, corrected in (
        ('Primary comparisons', study.primary, True),
        ('Secondary comparisons', study.secondary, False),
    ):
        if comparisons:
            lines += [f'### {name}', '']
            lines += [*_comparisons(results, comparisons, corrected), '']
    if first is not None and results.runs & first.runs:
        lines += ['### Compared with the first runs', '']
        lines += [*compare_repeats(results, first), '']
    if results.runs:
        lines += _ablations(results)
        if plot is not None:
            lines += [f'![every run of {study.name}]({plot})', '']
        lines += ['### Every run', '']
        lines += [*_every_run(results), '']
    return '\n'.join(lines).rstrip() + '\n'


def render_table(
    results: Results,
    name: str | None = None,
    rows: Collection[str] | None = None,
    heading: bool = True,
) -> str:
    """Write only the tables: the one with this name, or all of them.

    Args:
        results: The study's results so far.
        name: Of the table; None for all.
        rows: Leave out the other rows, and tables without any of these; None for all.
        heading: Write the titles of the tables.
    """
    level = 2 if heading else 0
    tables = []
    for table in results.study.tables:
        lines = tuple(ln for ln in table.lines if rows is None or ln.row in rows)
        if lines and name in (None, table.name):
            tables.append('\n'.join(_table(results, replace(table, lines=lines), level)))
    return '\n\n'.join(tables) + '\n'


def _progress(results: Results) -> Iterator[str]:
    study = results.study
    total = len(study.rows) * len(study.seeds)
    done = sum((row, s) in results.runs for row in study.rows for s in study.seeds)
    command = f'python tools/study.py run {_relative(study.path)}'
    # Runs that are in the CSV file are only repeated with another one.
    folder = f'work_dirs/again/{study.name}'
    again = f'--work-dir {folder} --csv {folder}.csv'
    threads = results.provenance('threads')
    if len(threads) == 1:  # other numbers of threads add in another order
        command = f'OMP_NUM_THREADS={threads[0]} {command}'
    one = f'{command} --rows {next(iter(study.rows))} --seeds {study.seeds[0]} {again}'
    which = 'The others' if done < total else 'All of them'
    yield f'{done} of {total} runs are done. {which}, and one run again:'
    commands = (command if done < total else f'{command} {again}', one)
    yield from ('', '```shell', *commands, '```')
    if not results.runs:
        return
    yield ''
    facts = (
        ('Revisions of the code, with commas between those of one run', 'revision'),
        ('Versions', 'versions'),
        ('Threads', 'threads'),
        ('Attention', 'attention'),
    )
    for name, field in facts:
        found = [entry.replace('; ', ', ') for entry in results.provenance(field)]
        yield f'- {name}: {"; ".join(found)}'


def _relative(path: Path) -> str:
    """Return the path as it is in a checkout."""
    parts = path.resolve().parts
    start = parts.index('configs') if 'configs' in parts else len(parts) - 1
    return '/'.join(parts[start:])


def _table(results: Results, table: Table, level: int) -> Iterator[str]:
    if level and (table.name or table.title):
        number = f'Table {table.name}' if table.name[:1].isdigit() else ''
        title = ': '.join(filter(None, (number, table.title))) or table.name
        yield f'{"#" * level} {title}'
        yield ''
    quoted = {m.name for m in table.metrics for ln in table.lines if m.name in ln.paper}
    heads = ['row', 'seeds']
    for metric in table.metrics:
        heads += [f'{metric.label}, paper'] if metric.name in quoted else []
        heads += [f'{metric.label}, here' if metric.name in quoted else metric.label]
    rows = []
    for line in table.lines:
        found = {m.name: results.values(line.row, m.name) for m in table.metrics}
        cells = [line.label, str(max(map(len, found.values()), default=0))]
        for metric in table.metrics:
            if metric.name in quoted:
                cells.append(_printed(line.paper.get(metric.name), metric))
            cells.append(_spread(list(found[metric.name].values()), metric))
        rows.append(cells)
    yield from _aligned(heads, rows)
    if any(results.values(ln.row, m.name) for ln in table.lines for m in table.metrics):
        yield ''
        yield 'Mean over seeds ± standard deviation.'
    for dataset in table.datasets:
        if dataset in _ON_A_SERVER:
            yield ''
            yield (
                f"The paper's accuracy on {_ON_A_SERVER[dataset]} is from the benchmark's "
                'server; here, it is measured on the validation images.'
            )
    if level and table.note:
        yield ''
        yield table.note


def _aligned(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A Markdown table that reads well in a terminal, too."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    rule = ['-' * widths[0], *('-' * (width - 1) + ':' for width in widths[1:])]
    for cells in (heads, rule, *rows):
        padded = [cells[0].ljust(widths[0])]
        padded += [
            cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)
        ]
        yield f'| {" | ".join(padded)} |'


def _spread(values: Sequence[float], metric: Metric) -> str:
    if not values:
        return ''
    mean = format_value(float(np.mean(values)), metric)
    if len(values) < 2:
        return mean
    return f'{mean} ± {format_value(float(np.std(values, ddof=1)), metric)}'


def _printed(value: float | None, metric: Metric) -> str:
    """A figure of the paper, with the zeros at its end that YAML drops."""
    if value is None:
        return ''
    return max(str(value), f'{value:.{metric.digits}f}', key=len)


def _comparisons(
    results: Results, comparisons: Sequence[Comparison], corrected: bool
) -> Iterator[str]:
    differences = [
        paired_difference(results.values(c.row, c.metric), results.values(c.than, c.metric))
        for c in comparisons
    ]
    p_values = [math.nan if d is None else d.p for d in differences]
    p_name = "p, Holm's" if corrected else 'p, uncorrected'
    if corrected:
        p_values = holm(p_values)
    yield f'| difference | metric | mean | 95 % interval | {p_name} | predicted | outcome |'
    yield '|---|---|---:|---:|---:|---|---|'
    study = results.study
    metrics = {metric.name: metric for metric in study.metrics}
    for comparison, difference, p in zip(comparisons, differences, p_values):
        metric = metrics[comparison.metric]
        labels = [study.rows[name].label for name in (comparison.row, comparison.than)]
        cells = [' − '.join(labels), metric.label]
        if difference is None:
            cells += ['', '', '']
        else:
            interval = [
                format_value(x, metric, True) for x in (difference.low, difference.high)
            ]
            cells += [
                format_value(difference.mean, metric, True),
                f'{interval[0]} to {interval[1]}' if all(interval) else '',
                '' if math.isnan(p) else '< 0.001' if p < 0.001 else f'{p:.3f}',
            ]
        cells += [comparison.expect, _outcome(difference, p, comparison.expect)]
        yield f'| {" | ".join(cells)} |'
    yield ''
    yield (
        'Paired by seed; t intervals and two-sided t-tests. *Undecided*: p >= 0.05.'
        + (
            " Holm's correction covers these comparisons together; the intervals are of "
            'each alone.'
            if corrected
            else ''
        )
    )


def _outcome(difference: Difference | None, p: float, expect: str) -> str:
    if difference is None or math.isnan(p):
        return ''
    if p >= 0.05:
        return 'undecided'
    found = 'higher' if difference.mean > 0 else 'lower'
    if not expect:
        return found
    return f'{found}: {"as predicted" if found == expect else "against the prediction"}'


def _ablations(results: Results) -> list[str]:
    """Write how far the metrics fall without the priors, if that was measured."""
    study = results.study
    metrics = [m for m in study.metrics if m.name not in MEASURED]
    lines = []
    for name, row in study.rows.items():
        for ablation in ABLATIONS:
            drops = []
            for metric in metrics:
                drop = paired_difference(
                    results.values(name, metric.name),
                    results.ablated(name, ablation, metric.name),
                )
                drops.append([] if drop is None else list(drop.values.values()))
            if any(drops):
                cells = [row.label, ablation, str(max(map(len, drops)))]
                cells += [_spread(d, m) for d, m in zip(drops, metrics, strict=True)]
                lines.append(f'| {" | ".join(cells)} |')
    if not lines:
        return []
    return [
        '### What each prior does in the trained models',
        '',
        'How far the metrics of the same weights fall, without any training: mean over '
        'seeds ± standard deviation.',
        '',
        *(f'- *{name}*: {text}.' for name, text in ABLATIONS.items()),
        '',
        f'| row | ablation | seeds | {" | ".join(m.label for m in metrics)} |',
        f'|---|---|{"---:|" * (1 + len(metrics))}',
        *lines,
        '',
    ]


def _every_run(results: Results) -> Iterator[str]:
    study = results.study
    seeds = sorted({seed for _, seed in results.runs})
    heads = [
        'row',
        'metric',
        *(f'seed {seed}' for seed in seeds),
        '95 % prediction interval',
    ]
    yield f'| {" | ".join(heads)} |'
    yield f'|---|---|{"---:|" * (len(heads) - 2)}'
    for name, row in study.rows.items():
        for metric in study.metrics:
            values = results.values(name, metric.name)
            if not values:
                continue
            cells = [format_value(values.get(seed, math.nan), metric) for seed in seeds]
            ends = [
                format_value(x, metric) for x in prediction_interval(list(values.values()))
            ]
            cells.append(f'{ends[0]} to {ends[1]}' if all(ends) else '')
            yield f'| {row.label} | {metric.label} | {" | ".join(cells)} |'
    yield ''
    yield '*95 % prediction interval*: where the result of another seed is expected.'
