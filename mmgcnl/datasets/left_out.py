"""What mmdet leaves out of the annotations in COCO's format, without saying so.

Shape shorthand: N: annotations.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset

from mmgcnl.utils.text import first_names

# What mmdet's LoadAnnotations makes of a mask: a mask, an error, an ignored object.
_MASK, _NO_MASK, _UNUSABLE = range(3)
_POLYGONS = range(6, 1 << 30, 2)  # numbers in a polygon
_PART = 1000


def find_left_out(
    path: str,
    annotations: Sequence[dict],
    images: dict[Any, dict],
    categories: Container[Any],
    panoptic: bool = False,
    masks: bool = False,
) -> tuple[list[str], list[str]]:
    """Find the annotations that mmdet's CocoDataset leaves out, and why.

    Args:
        path: The annotation file, for the messages.
        annotations: Its objects. Those of other images or categories are not counted.
        images: The images by id, all with a width and a height.
        categories: Ids of the classes of the data set.
        panoptic: Whether CocoPanopticDataset reads them.
        masks: Whether the pipeline loads masks.

    Returns:
        Faults, and notes on what may be intended.
    """
    faults: list[str] = []
    notes: list[str] = []
    row = {key: number for number, key in enumerate(images)}
    ours: list[dict] = []
    columns = []
    for part in split_up(annotations):
        some = [a for a in part if a['category_id'] in categories and a['image_id'] in row]
        if some:
            ours += some
            columns.append(_collect(some, row, masks))
    lost = []
    if len(ours) < len(annotations):
        lost = [one['id'] for one in annotations if one['image_id'] not in row]
    if lost:
        notes.append(
            f'{path}: {len(lost)} annotations are left out, because there is no image of '
            f'their image_id, or without a size: {first_names(map(str, lost))}'
        )
    if not ours:
        # Subsets may lack the classes; annotations of nothing mean that ids are wrong.
        if annotations and len(lost) == len(annotations):
            faults.append(f'{path}: all annotations are left out')
        return faults, notes
    rows, boxes, area, ignored, crowd, judged = map(np.concatenate, zip(*columns))

    def count(found: np.ndarray) -> str:
        return f'{path}: {found.sum()} of {len(ours)} annotations'

    def names(found: np.ndarray) -> str:
        some = (ours[i] for i in np.flatnonzero(found))
        return first_names(f'{a["id"]} of {file_name(images[a["image_id"]])}' for a in some)

    sizes = np.array([(one['width'], one['height']) for one in images.values()], float)
    width, height = sizes[rows].T
    x, y, w, h = boxes.T
    outside = (x >= width) | (y >= height) | (x + w <= 0) | (y + h <= 0)
    left_out = (boxes.min(1) >= 0) & (boxes.max(1) <= 1)
    left_out[left_out] = (boxes[left_out] % 1 > 0).any(1)
    if left_out.any():
        faults.append(
            f'{count(left_out)} have a box in fractions of the image, which mmdet takes '
            f'for pixels: {names(left_out)}; give x, y, width and height in pixels'
        )
    broken = ~np.isfinite(boxes).all(1)
    if broken.any():
        left_out |= broken
        faults.append(
            f'{count(broken)} have a box with NaN or infinity: {names(broken)}; correct or '
            'remove them'
        )
    for found, reason in (
        (ignored & (not panoptic), 'their `ignore` is set'),
        ((w < 1) | (h < 1), 'their box is less than a pixel wide or high'),
        (outside & (not panoptic), 'their box is outside of the image'),
        (area <= 0, 'their `area` is 0 or less'),
        (judged == _UNUSABLE, 'their mask has no polygon of three points or more'),
    ):
        found = found & ~left_out
        left_out |= found
        if found.any():
            notes.append(f'{count(found)} are left out, because {reason}: {names(found)}')
    without = (judged == _NO_MASK) & ~left_out
    if without.any():
        faults.append(
            f'{count(without)} have no mask (`segmentation`), but the pipeline loads '
            f'masks: {names(without)}; give the masks, remove these annotations, or train '
            'without masks: with_mask=False and no mask head'
        )
    emptied = np.setdiff1d(rows[left_out], rows[~left_out]).tolist()
    if left_out.all():
        faults.append(f'{path}: all annotations are left out')
    elif not panoptic and (left_out | crowd).all():
        faults.append(
            f'{path}: all annotations are crowds (`iscrowd`), which are not trained, or '
            'left out: set `iscrowd` to 0 for single objects'
        )
    elif emptied:
        files = [file_name(one) for one in images.values()]
        notes.append(
            f'{path}: {len(emptied)} of {len(images)} images are background only, because '
            'all of their annotations are left out: '
            f'{first_names(files[number] for number in emptied)}'
        )
    return faults, notes


def split_up(annotations: Sequence[dict]) -> Iterator[Sequence[dict]]:
    """Split annotations into parts that stay in the processor's cache between loops."""
    for start in range(0, len(annotations), _PART):
        yield annotations[start : start + _PART]


def _collect(
    annotations: Sequence[dict], row: dict[Any, int], masks: bool
) -> tuple[np.ndarray, ...]:
    """Collect rows of images, boxes (N, 4), areas, ignored, crowds, masks (else N)."""
    judged = np.zeros(len(annotations), int)
    if masks:
        # Nearly all masks are polygons, of which the first is valid: without a call.
        judged = np.array(
            [
                _MASK
                if isinstance(shape, list) and shape and len(shape[0]) in _POLYGONS
                else _judge_mask(shape)
                for shape in [one.get('segmentation') for one in annotations]
            ]
        )
    return (
        np.array([row[one['image_id']] for one in annotations]),
        np.array([one['bbox'] for one in annotations], float),
        np.array([one['area'] for one in annotations], float),
        np.array([bool(one.get('ignore')) for one in annotations]),
        np.array([bool(one.get('iscrowd')) for one in annotations]),
        judged,
    )


def find_filtered(
    dataset: BaseDataset, before: Iterable[dict], after: Iterable[dict]
) -> list[str]:
    """Count the images that the ``filter_cfg`` of a data set removes.

    Args:
        dataset: The data set.
        before: Its samples, unfiltered.
        after: Its samples, filtered.
    """
    kept = {id(sample) for sample in after}
    removed = [sample for sample in before if id(sample) not in kept]
    if not removed:
        return []
    names = first_names(str(sample.get('img_path')) for sample in removed)
    return [
        f'{len(removed)} of {len(removed) + len(kept)} images are left out by '
        f'filter_cfg={dict(dataset.filter_cfg or {})}: {names}'
    ]


def file_name(image: dict[str, Any]) -> str:
    """Name an image of an annotation file."""
    return str(image.get('file_name', image['id']))


def _judge_mask(shape: Any) -> int:
    if not shape:
        return _NO_MASK
    if isinstance(shape, list):
        for polygon in shape:
            if len(polygon) in _POLYGONS:
                return _MASK
        return _UNUSABLE
    usable = isinstance(shape.get('counts'), (list, str)) and bool(shape.get('size'))
    return _MASK if usable else _UNUSABLE
