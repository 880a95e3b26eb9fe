"""Predictions at a point, and how two of them differ.

Shape shorthand: H, W: pixels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from mmgcnl.structures import InstancePrediction, PanopticPrediction, Prediction

from ..attention import Point

NOTHING = 'no class'


def label_at(
    prediction: Prediction, point: Point, classes: Sequence[str], score_thr: float
) -> str:
    """Name what is predicted at a point.

    Args:
        prediction: The prediction for an image.
        point: x and y, in pixels.
        classes: Names of the classes.
        score_thr: Instances with a lower score do not count.
    """
    x, y = (int(round(value)) for value in point)
    if isinstance(prediction, InstancePrediction):
        found = [
            f'{classes[prediction.labels[i]]} {prediction.scores[i]:.2f}'
            for i in _shown(prediction, score_thr)
            if _covers(prediction, i, x, y)
        ]
        return ', '.join(found) or 'no object'
    return _name(int(class_map(prediction)[y, x]), classes)


def _shown(prediction: InstancePrediction, score_thr: float) -> list[int]:
    order = np.argsort(-np.array(prediction.scores), kind='stable').tolist()
    return [i for i in order if prediction.scores[i] >= score_thr]


def _covers(prediction: InstancePrediction, i: int, x: int, y: int) -> bool:
    x1, y1, x2, y2 = prediction.bboxes[i]
    inside = x1 - 1 <= x <= x2 + 1 and y1 - 1 <= y <= y2 + 1
    if not inside or prediction.masks is None:
        return inside
    from pycocotools.mask import decode

    return bool(decode(prediction.masks[i])[y, x])  # type: ignore[arg-type]


def class_map(prediction: Any) -> np.ndarray:
    """Make a map of classes (H, W) of a semantic or panoptic prediction; -1 for none."""
    if not isinstance(prediction, PanopticPrediction):
        return prediction.labels.astype(int)
    table = np.full(max(prediction.labels, default=0) + 1, -1)
    for number, label in prediction.labels.items():
        table[number] = label
    return table[prediction.ids]


def differences(
    before: Prediction,
    after: Prediction,
    classes: Sequence[str],
    score_thr: float,
    size: tuple[int, int],
) -> tuple[str, np.ndarray]:
    """Say how a prediction differs from another one of the same image and model.

    Objects are the same if they have one class and their boxes overlap by half (IoU).

    Args:
        before: The prediction of the model as it is.
        after: The prediction of the changed model.
        classes: Names of the classes.
        score_thr: Instances with a lower score do not count.
        size: (H, W) of the image.

    Returns:
        A sentence, and where the class of a pixel differs or an object is lost or new
        (H, W), which is the inside of its box.
    """
    if isinstance(before, InstancePrediction):
        assert isinstance(after, InstancePrediction)
        return _objects(before, after, classes, score_thr, size)
    old, new = class_map(before), class_map(after)
    changed = old != new
    objects = ''
    if isinstance(before, PanopticPrediction) and isinstance(after, PanopticPrediction):
        objects = ' ' + _segments(before, after, classes)
    if not changed.any():
        return f'No pixel changes its class.{objects}', changed
    pairs = Counter(zip(old[changed].tolist(), new[changed].tolist())).most_common(3)
    listed = ', '.join(
        f'{_name(a, classes)} to {_name(b, classes)} ({count / changed.sum():.0%} of these)'
        for (a, b), count in pairs
    )
    share = _share(int(changed.sum()), old.size)
    return f'Another class for {share}: {listed}.{objects}', changed


def _name(label: int, classes: Sequence[str]) -> str:
    return classes[label] if 0 <= label < len(classes) else NOTHING


def _share(pixels: int, of: int) -> str:
    share = pixels / of
    return f'{share:.1%} of the pixels' if share >= 0.001 else f'{pixels} of {of} pixels'


def _objects(
    before: InstancePrediction,
    after: InstancePrediction,
    classes: Sequence[str],
    score_thr: float,
    size: tuple[int, int],
) -> tuple[str, np.ndarray]:
    changed = np.zeros(size, bool)
    rest = _shown(after, score_thr)
    kept, lost = [], []
    for i in _shown(before, score_thr):
        overlaps = {
            j: _iou(before.bboxes[i], after.bboxes[j])
            for j in rest
            if after.labels[j] == before.labels[i]
        }
        best = max(overlaps, key=overlaps.__getitem__, default=None)
        if best is not None and overlaps[best] >= 0.5:
            rest.remove(best)
            kept.append((i, best))
        else:
            lost.append(f'{classes[before.labels[i]]} {before.scores[i]:.2f}')
            _fill(changed, before.bboxes[i])
    parts = [
        f'{classes[before.labels[i]]} {before.scores[i]:.2f} to {after.scores[j]:.2f}'
        for i, j in kept
        if abs(before.scores[i] - after.scores[j]) >= 0.01
    ]
    new = [f'{classes[after.labels[j]]} {after.scores[j]:.2f}' for j in rest]
    for j in rest:
        _fill(changed, after.bboxes[j])
    text = _sentences(('Lost', lost), ('New', new), ('Other scores', parts)) or (
        f'All {len(kept)} objects stay.' if kept else 'There is no object, as before.'
    )
    return text, changed


def _fill(changed: np.ndarray, box: Sequence[float]) -> None:
    x1, y1, x2, y2 = (max(0, round(value)) for value in box)
    changed[y1 : y2 + 1, x1 : x2 + 1] = True


def _segments(
    before: PanopticPrediction, after: PanopticPrediction, classes: Sequence[str]
) -> str:
    pairs, counts = np.unique(
        np.stack([before.ids.ravel(), after.ids.ravel()]), axis=1, return_counts=True
    )
    same: dict[int, int] = {}
    for (a, b), both in zip(pairs.T.tolist(), counts.tolist()):
        if a and b and before.labels[a] == after.labels[b]:
            # Above one half there is at most one partner.
            if both / (before.areas[a] + after.areas[b] - both) > 0.5:
                same[a] = b
    lost = [classes[label] for a, label in before.labels.items() if a not in same]
    new = [classes[label] for b, label in after.labels.items() if b not in same.values()]
    return _sentences(('Segments lost', lost), ('New segments', new)) or (
        f'All {len(same)} segments stay.'
    )


def _sentences(*lists: tuple[str, list[str]]) -> str:
    return ' '.join(f'{title}: {", ".join(items)}.' for title, items in lists if items)


def _iou(a: Sequence[float], b: Sequence[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    area = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return width * height / (area - width * height)
