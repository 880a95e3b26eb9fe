"""Figures of attention, predictions and measurements."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.figure
import matplotlib.patches
import numpy as np

from .benchmark import Measurement

Palette = Sequence[tuple[str, Sequence[int]]]
PANEL = 2.2  # inches
CMAP = 'inferno'
MAPS = 5  # per line of a figure


class Query(NamedTuple):
    """A row of :func:`draw_attention`.

    Attributes:
        point: x and y of the query, in pixels of the image.
        maps: Attention maps (h, w) by their titles. Each is stretched over the whole
            image, whatever its size.
        title: Title of the row.
    """

    point: tuple[float, float]
    maps: Mapping[str, np.ndarray]
    title: str = ''


def draw_attention(
    image: np.ndarray,
    queries: Sequence[Query],
    path: str | Path,
    panels: Mapping[str, np.ndarray] | None = None,
    palette: Palette = (),
    scale: float | None = None,
) -> None:
    """Draw the attention of the queries at some points of an image.

    Without ``scale``, every map has its own, from 0 to its maximum, because a flat map
    would show nothing on a shared scale. The panel says how many times the mean the maximum
    is.

    Args:
        image: (H, W, 3), RGB, uint8.
        queries: The rows.
        path: PNG file to write; its folder is made.
        panels: Pictures by their titles, for a first row after the image with all points.
        palette: Names and RGB colors for a legend of ``panels``.
        scale: Maps are in multiples of uniform attention, and this value and all above it
            get the brightest color, see :func:`brightness`.
    """
    height, width = image.shape[:2]
    lines = [
        (query, start, list(query.maps.items())[start : start + MAPS])
        for query in queries
        for start in range(0, len(query.maps), MAPS)
    ]
    columns = 1 + max(len(maps) for _, _, maps in lines)
    columns = max(columns, 1 + len(panels or {}))
    rows = len(lines) + bool(panels)
    bar_width = 0 if scale is None else 0.7
    figure = matplotlib.figure.Figure(
        figsize=(
            PANEL * columns + bar_width,
            (PANEL * height / width + 0.45) * rows + 0.3,
        ),
        layout='constrained',
    )
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    if panels:
        pictures = {'image': image, **panels}
        for ax, (title, picture) in zip(axes[0], pictures.items()):
            ax.imshow(picture, interpolation='nearest')
            ax.set_title(_wrapped(title), fontsize=10)
        for number, point in enumerate(dict.fromkeys(q.point for q in queries), 1):
            _mark(axes[0, 0], point, str(number))
        axes = axes[1:]
    gray = image.mean(axis=2, keepdims=True).repeat(3, axis=2).astype(np.uint8)
    titles: list[str] = []
    for i, (row, (query, start, maps)) in enumerate(zip(axes, lines)):
        if not start:
            row[0].imshow(image, interpolation='nearest')
            _mark(row[0], query.point)
            title = query.title or ('query' if i == 0 else '')
            row[0].set_title(_wrapped(title), fontsize=10)
        for ax, (title, attention) in zip(row[1:], maps):
            ax.imshow(gray, interpolation='nearest')
            share = attention / attention.max()
            bright = share if scale is None else brightness(attention, scale)
            drawn = ax.imshow(
                bright,
                extent=(-0.5, width - 0.5, height - 0.5, -0.5),
                cmap=CMAP,
                alpha=share**0.5 if scale is None else bright,
                vmin=0,
                vmax=1,
                interpolation='nearest',
            )
            _mark(ax, query.point)
            most = attention.max() / (attention.mean() if scale is None else 1)
            digits = f'{most:.3g}' if most < 1000 else f'{most:.0f}'
            text = f'max {digits} x {"mean" if scale is None else "uniform"}'
            below: dict[str, Any] = dict(transform=ax.transAxes, ha='center', va='top')
            ax.text(0.5, -0.03, text, **below, fontsize=7)
            if [name for name, _ in maps] != titles:
                ax.set_title(_wrapped(title), fontsize=10)
        titles = [name for name, _ in maps]
    if scale is not None:
        ticks = scale_ticks(scale)
        bar = figure.colorbar(drawn, ax=axes, shrink=0.6, pad=0.01)
        names = [f'{tick:g}' for tick in ticks]
        bar.set_ticks(brightness(np.array(ticks), scale).tolist(), labels=names)
        bar.set_label('times uniform attention', fontsize=8)
        bar.ax.tick_params(labelsize=7)
    _legend(figure, palette)
    _save(figure, path)


def brightness(attention: np.ndarray, scale: float) -> np.ndarray:
    """Map attention to the range of the colors, 0 to 1, by a square root.

    Of several heads, one often has a hundred times the attention of another; the root lets
    both be seen.

    Args:
        attention: In multiples of uniform attention.
        scale: What gets the brightest color.
    """
    return np.clip(attention / scale, 0, 1) ** 0.5


def scale_ticks(scale: float) -> list[float]:
    """Choose values to mark on the scale of :func:`brightness`; 1 is uniform attention."""
    return sorted({0, 1, scale / 4, scale} if scale >= 8 else {0, 1, scale})


def draw_panels(
    rows: Sequence[Mapping[str, np.ndarray]], path: str | Path, palette: Palette = ()
) -> None:
    """Draw pictures side by side, as in Figures 3 to 6 of the paper.

    Args:
        rows: For each image its pictures (H, W, 3) by their titles, which are the same in
            each row.
        path: PNG file to write; its folder is made.
        palette: Names and RGB colors for a legend.
    """
    columns = len(rows[0])
    sizes = [next(iter(row.values())).shape for row in rows]
    ratios = [size[0] / size[1] for size in sizes]
    panel = 3.0
    figure = matplotlib.figure.Figure(
        figsize=(panel * columns, panel * sum(ratios) + 0.3 + 0.25 * bool(palette)),
        layout='constrained',
    )
    axes = figure.subplots(len(rows), columns, squeeze=False, height_ratios=ratios)
    for line, row in zip(axes, rows):
        for ax, (title, picture) in zip(line, row.items()):
            ax.imshow(picture, interpolation='nearest')
            ax.set_axis_off()
            if row is rows[0]:
                ax.set_title(_wrapped(title), fontsize=11)
    _legend(figure, palette)
    _save(figure, path)


def draw_scaling(
    found: Mapping[str, Mapping[str, Measurement]], path: str | Path, title: str
) -> None:
    """Draw time and memory over the number of positions, on log axes.

    Args:
        found: For each size, such as '97x97', the measurements of
            :func:`mmgcnl.analysis.benchmark.measure`.
        path: PNG file to write; its folder is made.
        title: Title of the figure.
    """
    positions = [math.prod(map(int, size.split('x'))) for size in found]
    figure = matplotlib.figure.Figure(figsize=(9, 4.2), layout='constrained')
    axes = figure.subplots(1, 2)
    # Okabe and Ito's colors, with a marker each: distinguishable in gray as well.
    colors = '#000000 #E69F00 #56B4E9 #009E73 #0072B2 #D55E00 #CC79A7 #F0E442'.split()
    styles = list(zip(colors, 'osD^vP*X', strict=True))
    names = list(dict.fromkeys(name for size in found.values() for name in size))
    for ax, (label, field) in zip(
        axes, (('seconds', 'median_seconds'), ('growth of peak memory, MiB', 'median_mib'))
    ):
        for name, (color, marker) in zip(names, cycle(styles)):
            values = [
                getattr(size[name], field) if name in size else math.nan
                for size in found.values()
            ]
            ax.plot(positions, values, color=color, marker=marker, ms=5, label=name)
        ax.set(xscale='log', yscale='log', xlabel='positions N', ylabel=label)
        ax.set_xticks(positions, [f'{n}\n{size}' for n, size in zip(positions, found)])
        ax.minorticks_off()
        ax.grid(alpha=0.3)
    figure.suptitle(title, fontsize=11)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc='outside lower center', ncols=4, fontsize=9, frameon=False
    )
    _save(figure, path)


def _save(figure: matplotlib.figure.Figure, path: str | Path) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _wrapped(title: str) -> str:
    """Break a title into lines: names of configs are wider than a panel."""
    return textwrap.fill(title, 26)


def _mark(ax: matplotlib.axes.Axes, point: tuple[float, float], text: str = '') -> None:
    """Draw a '+' that is visible on any background."""
    ax.plot(*point, '+', color='white', markersize=13, markeredgewidth=4)
    ax.plot(*point, '+', color='black', markersize=11, markeredgewidth=2)
    if text:
        box = dict(facecolor='white', edgecolor='none', pad=1, alpha=0.8)
        ax.annotate(text, point, (6, 4), textcoords='offset points', fontsize=8, bbox=box)


def _legend(figure: matplotlib.figure.Figure, palette: Palette) -> None:
    if not palette:
        return
    handles = [
        matplotlib.patches.Patch(facecolor=(r / 255, g / 255, b / 255), label=name)
        for name, (r, g, b) in palette
    ]
    columns = max(1, min(len(handles), int(figure.get_figwidth() / 1.3)))
    place: dict[str, Any] = dict(loc='outside lower center', ncols=columns)
    figure.legend(handles=handles, **place, fontsize=8, frameon=False)
