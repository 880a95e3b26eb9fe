"""Curves of trainings, from the logs in their work dirs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib.figure

from mmgcnl.utils.logs import read_log


def read_curve(work_dir: Path, key: str) -> tuple[list[int], list[float]]:
    """Read a value from the log of a training, also from before it was resumed.

    Args:
        work_dir: Folder of the training.
        key: Name of the value, such as 'loss' or 'mIoU'.

    Returns:
        Iterations, and the values at these.

    Raises:
        ValueError: There is no log, or ``key`` is not in it.
    """
    lines = read_log(work_dir)
    if not lines:
        raise ValueError(
            f'{work_dir} is not the work dir of a training: it has no log (scalars.json)'
        )
    points = [(line['step'], line[key]) for line in lines if key in line]
    if not points:
        keys = sorted({key for line in lines for key in line})
        raise ValueError(f'{work_dir} has logged no {key!r}; it has {", ".join(keys)}')
    steps, values = zip(*points)
    return list(steps), list(values)


def labels_of(work_dirs: Sequence[Path]) -> list[str]:
    """Label trainings by their folders' names, or by longer paths where names are equal."""
    names = [work_dir.name for work_dir in work_dirs]
    if len(set(names)) == len(names):
        return names
    return ['/'.join(work_dir.parts[-2:]) for work_dir in work_dirs]


def draw_curves(work_dirs: Sequence[Path], keys: Sequence[str], path: str | Path) -> None:
    """Draw values over the iterations, a plot per value and a curve per training.

    Args:
        work_dirs: Folders of the trainings.
        keys: Names of the values.
        path: Picture that is written. Its folder is made.

    Raises:
        ValueError: See :func:`read_curve`.
    """
    figure = matplotlib.figure.Figure(figsize=(4.5 * len(keys), 3), layout='constrained')
    plots = figure.subplots(1, len(keys), squeeze=False)
    for plot, key in zip(plots[0], keys):
        for work_dir, label in zip(work_dirs, labels_of(work_dirs)):
            plot.plot(*read_curve(work_dir, key), marker='.', label=label)
        plot.set(xlabel='iteration', ylabel=key)
        plot.grid(alpha=0.3)
    plots[0][0].legend()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
