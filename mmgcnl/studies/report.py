"""A study as Markdown: tables, paired comparisons, and a picture of every run."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.figure
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from scipy import stats

from mmgcnl.analysis import ABLATIONS
from mmgcnl.evaluation.metric_labels import SCORED_ON_A_SERVER, Metric

from .results import MEASURED, Results, read_results
from .study import Comparison, Table, read_study

#: The confidence level of all intervals.
CONFIDENCE = 0.95
_COLUMNS = 3  # of plots; more would be too narrow to read
_SPREAD = 'Mean over seeds ± standard deviation.'
_REPEATED = 'Compared with the first runs'
_ABLATED = 'What each prior does in the trained models'
# Explained once on a page, where a section has such a table.
_NOTES = {
    ' comparisons\n': (
        '**Comparisons** are paired by seed, with t intervals and two-sided t-tests. '
        '*Undecided*: p >= 0.05. *Predicted* was written down before the runs. '
        "Holm's correction covers the primary comparisons of a study together; the "
        'intervals are of each alone, and so are the p values of secondary comparisons.'
    ),
    _REPEATED: (
        '**Repeated runs** are compared with the first ones, over all rows. *Over seeds, '
        'times √2*: standard deviation of the difference of two seeds of a row in the '
        'first study, pooled over the rows of these runs. If the seed decided the result, '
        'the repeated runs would differ by less. *In the interval*: runs within the 95 % '
        'prediction interval of their row there.'
    ),
    _ABLATED: (
        '**Ablations** change one thing in a trained model, without any training, and '
        'show how far its metrics fall. '
        + ' '.join(f'*{name.capitalize()}*: {text}.' for name, text in ABLATIONS.items())
    ),
}


def prediction_interval(values: pd.Series) -> tuple[float, float]:
    """Prediction interval for one more run: mean -+ t s sqrt(1 + 1 / n).

    Its ends are NaN for fewer than two values.
    """
    n = len(values)
    if n < 2:
        return math.nan, math.nan
    t = stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)
    half = t * values.std() * math.sqrt(1 + 1 / n)
    return values.mean() - half, values.mean() + half


def paired_test(differences: pd.Series) -> tuple[float, float, float]:
    """Return the ends of the 95 % t interval of the mean, and the p value of the t-test.

    They are NaN for fewer than two differences.
    """
    if len(differences) < 2:
        return math.nan, math.nan, math.nan
    mean = differences.mean()
    if differences.std() == 0:  # scipy would divide by zero
        return mean, mean, float(mean == 0)
    result = stats.ttest_1samp(differences, 0)
    return *result.confidence_interval(CONFIDENCE), result.pvalue


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p values (Scand. J. Statist. 6, 1979); NaN stays NaN.

    NaN stands for a comparison without results yet. It counts as a hypothesis, or the
    others would look better than they are.
    """
    ordered = pd.Series(p_values, dtype=float).sort_values(kind='stable')
    adjusted = (ordered * np.arange(len(ordered), 0, -1)).clip(upper=1).cummax()
    return adjusted.sort_index().tolist()


def render_page(
    paths: Sequence[Path],
    root: Path,
    csv: Path | None = None,
    out: Path | None = None,
    intro: str = '',
) -> tuple[str, list[str]]:
    """Report some studies on one page, and draw their pictures.

    Args:
        paths: Their YAML files.
        root: See :func:`read_study`.
        csv: Read it instead of the CSV files of the studies.
        out: Where the page will be; the pictures are drawn into a folder of the same name
            beside it. None: no pictures.
        intro: Comes first, followed by notes on how to read the tables.

    Returns:
        The page, and messages about faults of the CSV files.
    """
    texts, faults = [], []
    for path in paths:
        results, found = read_results(read_study(path, root), csv)
        faults += found
        picture = first = None
        if out is not None:
            picture = f'{out.stem}/{results.study.name}.png'
            if results.runs:
                draw(results, out.parent / picture)
        if results.study.repeats is not None:
            first, found = read_results(results.study.repeats)
            faults += found
        texts.append(render(results, picture, first))
    body = '\n'.join(texts)
    notes = [f'Tables have the {_SPREAD[0].lower()}{_SPREAD[1:]}']
    notes += [note for heading, note in _NOTES.items() if heading in body]
    page = [intro] if intro else []
    page += ['## How to read the tables\n', *(f'- {note}' for note in notes), '', body]
    # A study and one that repeats it read the same file.
    return '\n'.join(page), list(dict.fromkeys(faults))


def render(
    results: Results, picture: str | None = None, first: Results | None = None
) -> str:
    """Write the report of a study.

    Args:
        results: Its results so far.
        picture: Path of the picture to show, relative to the report; None for none.
        first: Results of the study whose runs it repeats, to compare with.
    """
    study = results.study
    lines = [f'## {study.title}', '']
    if study.text:
        lines += [study.text, '']
    lines += [*_progress(results), '']
    for table in study.tables if results.runs else ():
        lines += [*_table(results, table, 3), '']
    for kind, comparisons in (('Primary', study.primary), ('Secondary', study.secondary)):
        if comparisons:
            lines += [f'### {kind} comparisons', '']
            lines += [*_comparisons(results, comparisons, kind == 'Primary'), '']
    if first is not None and results.runs & first.runs:
        lines += [f'### {_REPEATED}', '']
        lines += [*_repeats(results, first), '']
    if results.runs:
        lines += _ablations(results)
        if picture is not None:
            lines += [f'![every run of {study.name}]({picture})', '']
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
    tables = []
    for table in results.study.tables:
        kept = tuple(row for row in table.rows if rows is None or row.row in rows)
        if kept and name in (None, table.name):
            lines = [*_table(results, replace(table, rows=kept), 2 if heading else 0)]
            if any(' ± ' in line for line in lines):
                lines += ['', _SPREAD]
            tables.append('\n'.join(lines))
    return '\n\n'.join(tables) + '\n'


def _progress(results: Results) -> Iterator[str]:
    study = results.study
    total = len(study.rows) * len(study.seeds)
    done = sum((row, s) in results.runs for row in study.rows for s in study.seeds)
    parts = study.path.resolve().parts  # as in a checkout
    start = parts.index('configs') if 'configs' in parts else len(parts) - 1
    path = '/'.join(parts[start:])
    yield f'`{path}`: {done} of {total} runs are done.'
    if done < total:
        yield from ('', '```shell', f'python tools/study.py run {path}', '```')


def _table(results: Results, table: Table, level: int) -> Iterator[str]:
    if level and (table.name or table.title):
        number = f'Table {table.name}' if table.name[:1].isdigit() else ''
        title = ': '.join(filter(None, (number, table.title))) or table.name
        yield f'{"#" * level} {title}'
        yield ''
    columns = [['row', *(row.label for row in table.rows)], ['seeds']]
    found = [[results.values(row.row, m.name) for m in table.metrics] for row in table.rows]
    columns[1] += [str(max(map(len, values), default=0)) for values in found]
    for metric, *values in zip(table.metrics, *found):
        printed = [row.paper.get(metric.name, '') for row in table.rows]
        if any(printed):
            columns.append([f'{metric.label}, paper', *printed])
        here = [_spread(of_row, metric) for of_row in values]
        columns.append([f'{metric.label}, here' if any(printed) else metric.label, *here])
    # It reads well in a terminal, too.
    columns = [
        [cell.rjust(width) if i else cell.ljust(width) for cell in column]
        for i, column in enumerate(columns)
        for width in [max(map(len, column))]
    ]
    head, *rows = zip(*columns)
    rule = ['-' * len(head[0]), *('-' * (len(cell) - 1) + ':' for cell in head[1:])]
    for cells in (head, rule, *rows):
        yield f'| {" | ".join(cells)} |'
    for dataset in table.datasets:
        if dataset in SCORED_ON_A_SERVER:
            yield ''
            yield (
                f"The paper's accuracy on {SCORED_ON_A_SERVER[dataset]} is from the "
                "benchmark's server; here, it is measured on the validation images."
            )
    if level and table.note:
        yield ''
        yield table.note


def _markdown(
    heads: Sequence[str], alignment: str, rows: Iterable[Sequence[str]]
) -> Iterator[str]:
    """A Markdown table; ``alignment`` has an 'l' or 'r' for each column."""
    yield f'| {" | ".join(heads)} |'
    yield '|' + ''.join('---:|' if side == 'r' else '---|' for side in alignment)
    for cells in rows:
        yield f'| {" | ".join(cells)} |'


def _spread(values: pd.Series, metric: Metric) -> str:
    if values.empty:
        return ''
    mean = metric.format(values.mean())
    return f'{mean} ± {metric.format(values.std())}' if len(values) > 1 else mean


def _comparisons(
    results: Results, comparisons: Sequence[Comparison], corrected: bool
) -> Iterator[str]:
    metrics = {metric.name: metric for metric in results.study.metrics}
    differences = [
        (results.values(c.row, c.metric) - results.values(c.than, c.metric)).dropna()
        for c in comparisons
    ]
    tests = [paired_test(found) for found in differences]
    p_values = [p for *_, p in tests]
    if corrected:
        p_values = holm(p_values)
    rows = []
    for comparison, found, (*ends, _), p in zip(comparisons, differences, tests, p_values):
        metric = metrics[comparison.metric]
        labels = [results.study.rows[n].label for n in (comparison.row, comparison.than)]
        rows.append(
            [
                ' − '.join(labels),
                metric.label,
                metric.format(found.mean(), sign=True),
                '' if math.isnan(p) else ' to '.join(metric.format(x, True) for x in ends),
                '' if math.isnan(p) else '< 0.001' if p < 0.001 else f'{p:.3f}',
                comparison.expect,
                _outcome(found.mean(), p, comparison.expect),
            ]
        )
    heads = ['difference', 'metric', 'mean', '95 % interval']
    heads += ["p, Holm's" if corrected else 'p, uncorrected', 'predicted', 'outcome']
    yield from _markdown(heads, 'llrrrll', rows)


def _outcome(mean: float, p: float, expect: str) -> str:
    if math.isnan(p):
        return ''
    if p >= 0.05:
        return 'undecided'
    found = 'higher' if mean > 0 else 'lower'
    if not expect:
        return found
    return f'{found}: {"as predicted" if found == expect else "against the prediction"}'


def _repeats(again: Results, first: Results) -> Iterator[str]:
    """Compare repeated runs with the originals, over all rows.

    Runs that have equal values in both studies are only counted.
    """
    metrics = [m for m in again.study.metrics if m.name not in MEASURED]
    names = [metric.name for metric in metrics]
    originals = first.table.reindex(columns=names)
    changes = (again.table.reindex(columns=names) - originals).dropna(how='all')
    changed = changes[(changes.fillna(0) != 0).any(axis=1)]
    yield (
        f'{len(changes) - len(changed)} of {len(changes)} runs have the same values as in '
        f'"{first.study.title}".'
    )
    if changed.empty:
        return
    yield from ('', 'The others, repeated minus first:', '')
    rows = []
    for metric in metrics:
        change, original = changed[metric.name].dropna(), originals[metric.name]
        if change.empty:
            continue
        of_row = original.dropna().groupby('row')
        intervals = {row: prediction_interval(values) for row, values in of_row}
        inside = [
            low <= original[row, seed] + x <= high
            for (row, seed), x in change.items()
            for low, high in [intervals[row]]
            if not math.isnan(low)
        ]
        variance = of_row.var()[change.index.unique('row')].mean()
        spread = f' ± {metric.format(change.std())}' if len(change) > 1 else ''
        row = [
            metric.label,
            str(len(change)),
            metric.format(change.mean(), sign=True) + spread,
            metric.format(max(change, key=abs), sign=True),
            metric.format(math.sqrt(2 * variance)),
            f'{sum(inside)} of {len(inside)}' if inside else '',
        ]
        rows.append(row)
    heads = ['metric', 'runs', 'mean ± standard deviation', 'largest']
    heads += ['over seeds, times √2', 'in the interval']
    yield from _markdown(heads, 'lrrrrr', rows)


def _ablations(results: Results) -> Iterator[str]:
    """Write how far the metrics fall without the priors, if that was measured."""
    study, table = results.study, results.table
    falls: dict[Metric, pd.DataFrame] = {}
    for metric in study.metrics:
        if metric.name in table and metric.name not in MEASURED:
            left = {name: results.ablated(name, metric.name) for name in ABLATIONS}
            fall = pd.DataFrame(left).rsub(table[metric.name], axis=0)
            fall = fall.dropna(how='all').dropna(how='all', axis=1)
            if len(fall):
                falls[metric] = fall
    if not falls:
        return
    yield from (f'### {_ABLATED}', '')
    largest = {m: m.factor * fall.abs().max(axis=None) for m, fall in falls.items()}
    if all(fall <= 5 * 10.0**-metric.digits for metric, fall in largest.items()):
        metric = max(largest, key=largest.__getitem__)
        number, most = len(falls[metric]), f'{largest[metric]:.{metric.digits}f}'
        yield (
            f'In the {number} models that were ablated, no ablation changes any metric by '
            f'more than {most}.'
        )
        yield ''
        return
    for metric, fall in falls.items():
        if metric.name in study.ablated:
            rows = []
            for name in study.rows:
                if name in fall.index.unique('row'):
                    of_row = fall.loc[name]
                    cells = [_spread(of_row[column].dropna(), metric) for column in fall]
                    seeds = str(of_row.count().max())
                    rows.append([study.rows[name].label, seeds, *cells])
            heads = [f'fall of {metric.label}', 'seeds', *fall]
            yield from (*_markdown(heads, 'l' + 'r' * len(heads[1:]), rows), '')


def draw(results: Results, path: Path) -> None:
    """Draw the first metrics of each table: a point for every run, a line for the mean.

    Args:
        results: With at least one run.
        path: PNG file that is written, together with its folder.
    """
    tables = [table for table in results.study.tables if table.metrics]
    columns = max(len(table.metrics[:_COLUMNS]) for table in tables)
    heights = [0.28 * len(table.rows) + 0.9 for table in tables]
    figure = matplotlib.figure.Figure(
        figsize=(2.4 + 2.4 * columns, sum(heights) + 0.4), layout='constrained'
    )
    grid = figure.subplots(
        len(tables), columns, squeeze=False, gridspec_kw=dict(height_ratios=heights)
    )
    for plots, table in zip(grid, tables):
        metrics = table.metrics[:_COLUMNS]
        for plot, metric in zip(plots, metrics):
            _draw_metric(plot, results, table, metric)
        plots[0].set_yticks(range(len(table.rows)), [row.label for row in table.rows])
        plots[0].set_title(table.title, fontsize=10, loc='left')
        for plot in plots[len(metrics) :]:
            plot.axis('off')
    mark = partial(Line2D, [], [], ls='')
    handles = [
        mark(color=f'C{seed % 10}', marker='o', ms=4, label=f'seed {seed}')
        for seed in sorted({seed for _, seed in results.runs})
    ]
    handles.append(mark(color='black', marker='|', ms=9, label='mean'))
    place: dict[str, Any] = dict(loc='outside lower center', ncols=6)
    figure.legend(handles=handles, **place, fontsize=8, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without the version of matplotlib in it, the file changes only with its content.
    figure.savefig(path, dpi=100, metadata=dict(Software=None))


def _draw_metric(plot: Axes, results: Results, table: Table, metric: Metric) -> None:
    for height, row in enumerate(table.rows):
        values = metric.factor * results.values(row.row, metric.name)
        offsets = np.linspace(-0.15, 0.15, len(values))
        # A seed has the same colour in all rows, which shows the paired differences.
        colours = [f'C{seed % 10}' for seed in values.index]
        plot.scatter(values, height + offsets, c=colours, s=14)
        if len(values):
            mean = values.mean()
            plot.vlines(mean, height - 0.35, height + 0.35, color='black', lw=1)
    plot.set_yticks([])
    plot.set_ylim(len(table.rows) - 0.5, -0.5)
    # What the tables round to zero is not spread over the width of the plot.
    low, high = plot.get_xlim()
    missing = 10 * 10.0**-metric.digits - (high - low)
    if missing > 0:
        plot.set_xlim(low - missing / 2, high + missing / 2)
    plot.set_xlabel(metric.label, fontsize=9)
    plot.tick_params(axis='x', labelsize=8)
    plot.grid(axis='x', alpha=0.3)
