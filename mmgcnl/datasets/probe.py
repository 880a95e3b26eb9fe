"""The probe: drawn scenes in which context and position are each worth something.

A scene has a sky, six lamps of different hues, lit or not, dark crates and bright barrels.
The sky has the hue of one of the lamps, and that lamp alone counts. A crate is labelled by
whether it lies left or right of the lamp that counts, a barrel by whether that lamp is lit.
Neither can be told from its neighbourhood.

- *Side* is a matter of position: without it, attention can find the lamp but not say
  where it is.
- *Which lamp* is a matter of the whole scene. A plain non-local block does hand the sky
  and all lamps on through its values, but as a sum, divided by that of the weights. In
  the probe's head nothing non-linear follows the block, and there are fewer heads than
  lamps, so the choice must be made where the context makes it: in the attention. (The
  division is not linear either: trained for longer, a plain block tells ever more lamps.)

What could leak, and does not:

- *Neighbourhood*: neither a lamp nor the sky lies next to a crate or barrel, and the
  probe's backbone sees at most the next cell.
- *Absolute position*, from padding: the outermost cells hold neither lamps nor crates,
  and the backbone's padding reaches no further.
- *Counting*, the bar for models that cannot choose the lamp: the side of most lamps is
  right for 82 % of the crates, the state of most lamps in 21 of 32 scenes.

:class:`mmgcnl.evaluation.ProbeMetric` reports how often side and state are right.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mmcv
import numpy as np
from mmengine.utils import track_iter_progress
from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS

from mmgcnl.utils.deprecation import moved_names

CELL = 4  # pixels
GRID = 12  # cells
SKY = 3  # rows of cells
NUM_OBJECTS = 16  # crates and barrels, half and half
LAMPS = np.array(
    [
        [220, 60, 50],
        [60, 180, 70],
        [60, 90, 220],
        [230, 200, 60],
        [180, 70, 200],
        [60, 190, 210],
    ]
)
_OBJECTS = (50, 170)  # gray of a crate, of a barrel
CRATES = (3, 4)  # classes: left, right of the lamp that counts
BARRELS = (5, 6)  # classes: that lamp unlit, lit


def draw_scene(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One scene.

    Args:
        rng: Decides everything.

    Returns:
        RGB image (48, 48, 3) and label map (48, 48), both uint8.
    """
    cells = np.zeros((GRID, GRID), np.uint8)
    image = np.full((GRID * CELL, GRID * CELL, 3), 110.0)
    inner = [(y, x) for y in range(SKY + 1, GRID - 1) for x in range(1, GRID - 1)]
    rng.shuffle(inner)
    counts = rng.integers(len(LAMPS))
    lit = rng.integers(2, size=len(LAMPS))

    def paint(y: int, x: int, color: Any, margin: int = 0) -> None:
        rows, columns = (slice(c * CELL + margin, (c + 1) * CELL - margin) for c in (y, x))
        image[rows, columns] = color

    image[: SKY * CELL] = LAMPS[counts]
    cells[:SKY] = 1
    lamps = [inner.pop() for _ in LAMPS]
    for lamp, (y, x) in enumerate(lamps):
        paint(y, x, LAMPS[lamp])
        if lit[lamp]:
            paint(y, x, 255, margin=1)
        cells[y, x] = 2
    counting_x = lamps[counts][1]
    free = [
        (y, x)
        for y, x in inner
        if x != counting_x and all(max(abs(y - v), abs(x - u)) > 1 for v, u in lamps)
    ]
    for index, (y, x) in enumerate(free[:NUM_OBJECTS]):
        barrel = index % 2
        paint(y, x, _OBJECTS[barrel])
        answer = lit[counts] if barrel else x > counting_x
        cells[y, x] = (BARRELS if barrel else CRATES)[int(answer)]
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
            'crate left of the lamp',
            'crate right of the lamp',
            'barrel, lamp unlit',
            'barrel, lamp lit',
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


__getattr__ = moved_names(
    __name__, {'ProbeMetric': 'mmgcnl.evaluation.probe_metric.ProbeMetric'}
)
