"""A figure of a study that shows every run."""

from __future__ import annotations

from pathlib import Path

import matplotlib.figure
import numpy as np

from .metrics import Metric
from .results import Results
from .spec import Table


def draw(results: Results, path: str | Path) -> None:
    """Draw the first metric of each table: a point for every run, a line for the mean.

    Args:
        results: With at least one run.
        path: PNG file that is written, together with its folder.
    """
    tables = [table for table in results.study.tables if table.metrics]
    rows = [len(table.lines) for table in tables]
    figure = matplotlib.figure.Figure(
        figsize=(6.5, sum(0.28 * n + 0.8 for n in rows)), layout='constrained'
    )
    plots = figure.subplots(
        len(tables), 1, squeeze=False, gridspec_kw=dict(height_ratios=[n + 2 for n in rows])
    )[:, 0]
    for plot, table in zip(plots, tables):
        _draw_table(plot, results, table, table.metrics[0])
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without the version of matplotlib in it, the file changes only with its content.
    figure.savefig(path, dpi=100, metadata=dict(Software=None))


def _draw_table(plot, results: Results, table: Table, metric: Metric) -> None:
    for height, line in enumerate(table.lines):
        values = results.values(line.row, metric.name)
        scaled = metric.factor * np.array(list(values.values()))
        # A seed has the same colour in all rows, which shows the paired differences.
        plot.scatter(
            scaled,
            np.full(len(scaled), height)
            + np.linspace(-0.15, 0.15, max(len(scaled), 1))[: len(scaled)],
            c=[f'C{seed % 10}' for seed in values],
            s=14,
        )
        if len(scaled):
            plot.vlines(scaled.mean(), height - 0.35, height + 0.35, color='black', lw=1)
    plot.set_yticks(range(len(table.lines)), [line.label for line in table.lines])
    plot.set_ylim(len(table.lines) - 0.5, -0.5)
    plot.set_xlabel(metric.label)
    plot.set_title(table.title, fontsize=10)
    plot.grid(axis='x', alpha=0.3)
