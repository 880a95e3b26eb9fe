"""The probe: drawn scenes in which context and position are each worth something.

A scene is a grid of cells: a sky, four lamps of different hues, lit or not, and dark
crates. The sky has the hue of one of the lamps, and that lamp alone counts. A crate is
labelled by whether it lies left or right of the lamp that counts and whether that lamp
is lit: four classes, none of which can be told from the crate's neighbourhood.

- *Side* is a matter of position: without it, attention can find the lamp but not say
  where it is.
- *Which lamp* is a matter of the whole scene. A plain non-local block does hand the sky
  and all lamps on through its values, but as a sum. In the probe's head nothing
  non-linear follows the block, and there are fewer heads than lamps, so the choice must
  be made where the context makes it: in the attention.

What could leak, and does not:

- *Neighbourhood*: neither a lamp nor the sky lies next to a crate, and the probe's
  backbone sees at most the next cell.
- *Absolute position*, from padding: the outermost cells hold neither lamps nor crates,
  and the backbone's padding reaches no further.
- *Counting*: crates are placed so that most of the lamps that do not count lie on the
  same side of a crate as the one that counts in two of three cases. (If they never told
  anything, nothing would be learned before everything is.) The lamps' states are
  independent, so that the state of most lamps is right in 11 of 16 cases. These are
  the bars for models that cannot choose the lamp.

:class:`ProbeMetric` reports how often side and state are right.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.utils import track_iter_progress
from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS, METRICS

CELL = 8  # pixels
GRID = 12  # cells
NUM_CRATES = 15  # at most
_LAMPS = np.array([[220, 60, 50], [60, 180, 70], [60, 90, 220], [230, 200, 60]])
_CRATE = np.array([70, 70, 70])
_FIRST_CRATE_CLASS = 3


def draw_scene(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One scene.

    Args:
        rng: Decides everything.

    Returns:
        RGB image (96, 96, 3) and label map (96, 96), both uint8.
    """
    cells = np.zeros((GRID, GRID), np.uint8)
    image = np.full((GRID * CELL, GRID * CELL, 3), 110.0)
    inner = [(y, x) for y in range(2, GRID - 1) for x in range(1, GRID - 1)]
    rng.shuffle(inner)
    counts = rng.integers(len(_LAMPS))
    lit = rng.integers(2, size=len(_LAMPS))

    def paint(y: int, x: int, color: Any, margin: int = 0) -> None:
        rows, columns = (slice(c * CELL + margin, (c + 1) * CELL - margin) for c in (y, x))
        image[rows, columns] = color

    for x in range(GRID):
        paint(0, x, _LAMPS[counts])
        cells[0, x] = 1
    lamps = [inner.pop() for _ in _LAMPS]
    for lamp, (y, x) in enumerate(lamps):
        paint(y, x, _LAMPS[lamp])
        if lit[lamp]:
            paint(y, x, 255, margin=2)
        cells[y, x] = 2
    # Crates for which the other lamps point to the right side, and to the wrong one.
    place = lamps.pop(counts)
    candidates: dict[bool, list] = {True: [], False: []}
    for y, x in inner:
        side = np.sign(x - place[1])
        near = any(max(abs(y - v), abs(x - u)) <= 1 for v, u in (place, *lamps))
        if side and not near:
            candidates[side == np.sign(sum(np.sign(x - u) for _, u in lamps))].append(
                (y, x)
            )
    number = min(NUM_CRATES // 3, len(candidates[True]) // 2, len(candidates[False]))
    for y, x in candidates[True][: 2 * number] + candidates[False][:number]:
        paint(y, x, _CRATE)
        cells[y, x] = _FIRST_CRATE_CLASS + 2 * (x > place[1]) + lit[counts]
    image += rng.normal(0, 12, image.shape)
    labels = cells.repeat(CELL, axis=0).repeat(CELL, axis=1)
    return image.clip(0, 255).astype(np.uint8), labels


def make_probe(root: str | Path, num_train: int = 3000, num_val: int = 300) -> None:
    """Write the data set in mmseg's layout: the same files every time.

    Args:
        root: Folder that gets ``images/{train,val}`` and ``annotations/{train,val}``.
        num_train: Scenes to train on.
        num_val: Scenes to evaluate on.
    """
    root = Path(root)
    for seed, (split, number) in enumerate((('train', num_train), ('val', num_val))):
        rng = np.random.default_rng(seed)
        print(f'drawing {number} scenes into {root}/images/{split}')
        for index in track_iter_progress(range(number)):
            image, labels = draw_scene(rng)
            name = f'{split}/{index:05d}.png'
            mmcv.imwrite(image[..., ::-1], str(root / 'images' / name))
            mmcv.imwrite(labels, str(root / 'annotations' / name))


@DATASETS.register_module()
class ProbeDataset(BaseSegDataset):
    """The scenes that :func:`make_probe` writes."""

    METAINFO = dict(
        classes=(
            'ground',
            'sky',
            'lamp',
            'left of an unlit lamp',
            'left of a lit lamp',
            'right of an unlit lamp',
            'right of a lit lamp',
        ),
        # Okabe and Ito's palette, which colour-blind readers tell apart.
        palette=[
            [200, 200, 200],
            [86, 180, 233],
            [240, 228, 66],
            [0, 114, 178],
            [0, 158, 115],
            [213, 94, 0],
            [204, 121, 167],
        ],
    )

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(img_suffix='.png', seg_map_suffix='.png', **kwargs)


@METRICS.register_module()
class ProbeMetric(BaseMetric):
    """Of the crates' pixels: how many have the right side, how many the right lamp state.

    Chance is 50 %. A pixel not taken for a crate at all is wrong in both.
    """

    default_prefix = 'crates'

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Count one batch. ``data_samples`` are mmseg's, as dicts."""
        for sample in data_samples:
            truth = sample['gt_sem_seg']['data'].cpu() - _FIRST_CRATE_CLASS
            guess = sample['pred_sem_seg']['data'].cpu() - _FIRST_CRATE_CLASS
            crate = (truth >= 0) & (truth < 4)
            truth, guess = truth[crate], guess[crate]
            side = (guess >= 0) & (guess // 2 == truth // 2)
            state = (guess >= 0) & (guess % 2 == truth % 2)
            self.results.append((len(truth), side.sum().item(), state.sum().item()))

    def compute_metrics(self, results: list[tuple[int, int, int]]) -> dict[str, float]:
        """Percentages over all images."""
        pixels, side, state = np.array(results).sum(0)
        return dict(side=100 * side / pixels, lamp_state=100 * state / pixels)
