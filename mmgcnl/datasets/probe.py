"""The probe: drawn scenes in which context and position each carry information.

A scene has a sky, six lamps of different hues, lit or not, dark crates and bright barrels.
The sky has the hue of one of the lamps, and only that lamp counts. The label of a crate
says whether it lies left or right of the lamp that counts, the label of a barrel whether
that lamp is lit. Neither can be told from the neighbourhood of the object.

- *Side* depends on position: without it, attention can find the lamp, but not say where
  it is.
- *Which lamp counts* depends on the whole scene. A plain non-local block passes the sky
  and all lamps on through its values, but as a weighted mean. In the probe's head nothing
  non-linear follows the block, and there are fewer heads than lamps. So the lamp must be
  chosen where the context acts: in the attention. (The normalisation of the weights is
  not linear either: trained for longer, a plain block distinguishes more and more lamps.)

Shortcuts that do not give the answer away:

- *Neighbourhood*: neither a lamp nor the sky is next to a crate or barrel, and the
  probe's backbone sees at most the next cell.
- *Absolute position*, from padding: the outermost cells hold neither lamps nor crates,
  and the backbone's padding reaches no further.
- *Counting* is the baseline for models that cannot choose the lamp: the side of the
  majority of lamps is right for 82 % of the crates, their state in 21 of 32 scenes.

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
# Okabe and Ito's palette, distinguishable for colour-blind readers.
COLORS = {
    'ground': [200, 200, 200],
    'sky': [86, 180, 233],
    'lamp': [240, 228, 66],
    'crate left of the lamp': [0, 114, 178],
    'crate right of the lamp': [0, 158, 115],
    'barrel, lamp unlit': [213, 94, 0],
    'barrel, lamp lit': [204, 121, 167],
}


def draw_scene(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw one scene.

    Args:
        rng: The only source of randomness.

    Returns:
        Image (48, 48, 3), RGB, and label map (48, 48), both uint8.
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


def make_probe(
    root: str | Path, num_train: int = 3000, num_val: int = 300, seed: int = 0
) -> None:
    """Write the data set in mmseg's layout. The files are the same every time.

    Args:
        root: Folder for ``images/{train,val}`` and ``annotations/{train,val}``.
        num_train: Number of scenes to train on.
        num_val: Number of scenes to evaluate on.
        seed: Seed of the scenes.
    """
    root = Path(root)
    for part, (split, number) in enumerate((('train', num_train), ('val', num_val))):
        rng = np.random.default_rng(2 * seed + part)
        print(f'drawing {number} scenes into {root}/images/{split}')
        for index in track_iter_progress(range(number)):
            image, labels = draw_scene(rng)
            name = f'{split}/{index:05d}.png'
            mmcv.imwrite(image[..., ::-1], str(root / 'images' / name))
            mmcv.imwrite(labels, str(root / 'annotations' / name))


@DATASETS.register_module()
class ProbeDataset(BaseSegDataset):
    """The scenes that :func:`make_probe` writes.

    Args:
        **kwargs: See mmseg's BaseSegDataset.
    """

    METAINFO = dict(classes=tuple(COLORS), palette=list(COLORS.values()))

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(img_suffix='.png', seg_map_suffix='.png', **kwargs)
