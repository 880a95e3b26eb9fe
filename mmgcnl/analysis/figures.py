"""Pictures of attention."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib.figure
import numpy as np


def draw_attention(
    image: np.ndarray,
    points: Sequence[tuple[int, int]],
    maps: dict[str, np.ndarray],
    path: str | Path,
) -> None:
    """Draw where the queries at some points of an image look.

    Args:
        image: RGB, (H, W, 3), uint8.
        points: x and y of each query, in pixels of the image.
        maps: Attention (number of points, h, w) of each model, by its name.
        path: PNG file that is written.
    """
    figure = matplotlib.figure.Figure(
        figsize=(2.2 * (1 + len(maps)), 2.35 * len(points)), layout='constrained'
    )
    gray = image.mean(axis=2, keepdims=True).repeat(3, axis=2).astype(np.uint8)
    axes = figure.subplots(len(points), 1 + len(maps), squeeze=False)
    height, width = image.shape[:2]
    for row, (x, y) in enumerate(points):
        for ax in axes[row]:
            ax.imshow(image if ax is axes[row, 0] else gray)
            ax.plot(x, y, '+', color='white', markersize=13, markeredgewidth=4)
            ax.plot(x, y, '+', color='black', markersize=11, markeredgewidth=2)
            ax.set_axis_off()
        for ax, (name, attention) in zip(axes[row, 1:], maps.items(), strict=True):
            # One scale per map: on a shared one a flat map would show nothing.
            share = attention[row] / attention[row].max()
            ax.imshow(
                share,
                extent=(-0.5, width - 0.5, height - 0.5, -0.5),
                cmap='inferno',
                alpha=share**0.5,
                vmin=0,
                vmax=1,
            )
            if row == 0:
                ax.set_title(name, fontsize=10)
    axes[0, 0].set_title('query', fontsize=10)
    figure.savefig(path, dpi=110)
