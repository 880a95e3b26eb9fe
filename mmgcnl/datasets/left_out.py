"""What mmdet leaves out of the annotations in COCO's format, without saying so.

Shape shorthand: N: annotations.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset

from mmgcnl.utils.text import first_names

from .report import Report

# What mmdet's LoadAnnotations makes of a mask: a mask, an error, an ignored object.
_MASK, _NO_MASK, _UNUSABLE, _RLE = range(4)
_POLYGONS = range(6, 1 << 30, 2)  # numbers in a polygon
_PART = 1000
_MAX_ID = 10**7
# Why an annotation is left out, as by the first 7, or has a wrong mask.
_REASONS = (
    'have a box in fractions of the image, which mmdet takes for pixels: {}; give x, '
    'y, width and height in pixels',
    'have a box with NaN or infinity: {}; correct or remove them',
    'are left out, because their `ignore` is set: {}',
    'are left out, because their box is less than a pixel wide or high: {}',
    'are left out, because their box is outside of the image: {}',
    'are left out, because their `area` is 0 or less: {}',
    'are left out, because their mask has no polygon of three points or more: {}',
    'have no mask (`segmentation`), but the pipeline loads masks: {}; give the masks, '
    'remove these annotations, or train without masks: with_mask=False and no mask head',
    'have a mask (RLE) of another size than their image: {}; write its size as height, '
    'width',
)
_INTENDED = range(3, 8)  # those that may be: notes and no faults


def check_left_out(
    path: str,
    annotations: Sequence[dict],
    images: dict[Any, dict],
    categories: set[Any],
    panoptic: bool,
    masks: bool,
    report: Report,
) -> None:
    """Find the annotations that mmdet's CocoDataset leaves out, and why.

    Args:
        path: The annotation file, for the messages.
        annotations: Its objects. Those of other images or categories are not counted.
        images: The images by id, all with a width and a height.
        categories: Ids of the classes of the data set.
        panoptic: Whether CocoPanopticDataset reads them.
        masks: Whether the pipeline loads masks.
        report: Gets the faults, and notes on what may be intended.
    """
    find_rows = _row_finder(list(images))
    sizes = np.array(
        [[one[key] for one in images.values()] for key in ('width', 'height')], float
    )
    ours: list[dict] = []
    columns = []
    for part in split_up(annotations):
        rows = find_rows([one['image_id'] for one in part])
        kept = rows >= 0
        if not categories.issuperset([one['category_id'] for one in part]):
            kept &= [one['category_id'] in categories for one in part]
        if not kept.all():
            part = [one for one, keep in zip(part, kept) if keep]
        if part:
            ours += part
            rows = rows[kept]
            columns.append((rows, *_judge(part, sizes[:, rows], panoptic, masks)))
    lost = []
    if len(ours) < len(annotations):
        lost = [one['id'] for one in annotations if one['image_id'] not in images]
    if lost:
        report.notes.append(
            f'{path}: {len(lost)} annotations are left out, because there is no image of '
            f'their image_id, or without a size: {first_names(map(str, lost))}'
        )
    if not ours:
        # Subsets may lack the classes; annotations of nothing mean that ids are wrong.
        if annotations and len(lost) == len(annotations):
            report.faults.append(f'{path}: all annotations are left out')
        return
    rows, judged, crowd = map(np.concatenate, zip(*columns))
    for number, text in enumerate(_REASONS, 1):
        found = np.flatnonzero(judged == number).tolist()
        if found:
            names = first_names(
                f'{one["id"]} of {file_name(images[one["image_id"]])}'
                for one in map(ours.__getitem__, found)
            )
            (report.notes if number in _INTENDED else report.faults).append(
                f'{path}: {len(found)} of {len(ours)} annotations {text.format(names)}'
            )
    left_out = (judged > 0) & (judged <= 7)
    emptied: list[int] = []
    if left_out.any():  # sorting all rows takes time
        emptied = np.setdiff1d(rows[left_out], rows[~left_out]).tolist()
    if left_out.all():
        report.faults.append(f'{path}: all annotations are left out')
    elif not panoptic and (left_out | crowd).all():
        report.faults.append(
            f'{path}: all annotations are crowds (`iscrowd`), which are not trained, or '
            'left out: set `iscrowd` to 0 for single objects'
        )
    elif emptied:
        files = [file_name(one) for one in images.values()]
        report.notes.append(
            f'{path}: {len(emptied)} of {len(images)} images are background only, because '
            'all of their annotations are left out: '
            f'{first_names(files[number] for number in emptied)}'
        )


def split_up(annotations: Sequence[dict]) -> Iterator[Sequence[dict]]:
    """Split annotations into parts that stay in the processor's cache between loops."""
    for start in range(0, len(annotations), _PART):
        yield annotations[start : start + _PART]


def _row_finder(keys: list[Any]) -> Callable[[list[Any]], np.ndarray]:
    """Make a function that finds the row of each of some image_ids, or -1."""
    row = {key: number for number, key in enumerate(keys)}
    numbers = np.array(keys)
    # Nearly always, ids are small numbers: a table is much faster than the dictionary.
    simple = numbers.dtype == int and numbers.min() >= 0 and numbers.max() < _MAX_ID
    table = np.full(numbers.max() + 2 if simple else 0, -1)
    if simple:
        table[numbers] = np.arange(len(numbers))

    def find(ids: list[Any]) -> np.ndarray:
        wanted = np.array(ids)
        if simple and wanted.dtype == int and wanted.ndim == 1:
            return table[wanted.clip(-1, len(table) - 1)]
        return np.array([row.get(one, -1) for one in ids])

    return find


def _judge(
    annotations: Sequence[dict], sizes: np.ndarray, panoptic: bool, masks: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Find the first reason why each annotation is left out, and the crowds.

    Args:
        annotations: N annotations.
        sizes: (2, N), width and height of their images.
        panoptic: See :func:`check_left_out`.
        masks: See :func:`check_left_out`.

    Returns:
        (N,), numbers of ``_REASONS``, from 1, or 0; and (N,), whether they are crowds.
    """
    boxes = _to_numbers([one['bbox'] for one in annotations]).transpose(1, 0).copy()
    area = _to_numbers([one['area'] for one in annotations])
    mask: np.ndarray = np.zeros(len(area), int)
    if masks:
        # Nearly all masks are polygons, of which the first is valid: without a call.
        mask = np.array(
            [
                _MASK
                if isinstance(shape, list) and shape and len(shape[0]) in _POLYGONS
                else _judge_mask(shape)
                for shape in [one.get('segmentation') for one in annotations]
            ]
        )
    other_size = mask == _RLE
    for i in np.flatnonzero(other_size).tolist():
        other_size[i] = annotations[i]['segmentation']['size'] != sizes[::-1, i].tolist()
    (x, y, w, h), (width, height) = boxes, sizes
    fractions = (boxes.min(0) >= 0) & (boxes.max(0) <= 1)
    fractions[fractions] = (boxes[:, fractions] % 1 > 0).any(0)
    outside = (x >= width) | (y >= height) | (x + w <= 0) | (y + h <= 0)
    reasons = (  # in the order of _REASONS
        fractions,
        ~np.isfinite(boxes).all(0),
        (not panoptic) & _are_set([one.get('ignore') for one in annotations]),
        (w < 1) | (h < 1),
        (not panoptic) & outside,
        area <= 0,
        mask == _UNUSABLE,
        mask == _NO_MASK,
        other_size,
    )
    first = np.zeros(len(area), np.uint8)
    for number in range(len(reasons), 0, -1):  # faster than np.select
        first[reasons[number - 1]] = number
    return first, _are_set([one.get('iscrowd') for one in annotations])


def _to_numbers(values: list[Any]) -> np.ndarray:
    found = np.array(values)
    if found.dtype.kind == 'U':
        raise TypeError('a text instead of a number')
    return found.astype(float)


def _are_set(values: list[Any]) -> np.ndarray:
    return np.fromiter(map(bool, values), bool, len(values))


def find_filtered(
    dataset: BaseDataset, before: Iterable[dict], after: Iterable[dict]
) -> Iterator[str]:
    """Find the samples that the ``filter_cfg`` of a data set removes."""
    kept = {id(sample) for sample in after}
    removed = [str(one.get('img_path')) for one in before if id(one) not in kept]
    if removed:
        yield (
            f'{len(removed)} of {len(removed) + len(kept)} images are left out by '
            f'filter_cfg={dict(dataset.filter_cfg or {})}: {first_names(removed)}'
        )


def find_repeated(samples: Iterable[dict]) -> Iterator[str]:
    """Find images that a data set has several times, as by a repeated line of a list."""
    counts = Counter(sample.get('img_path') for sample in samples)
    names = [str(path) for path, number in counts.items() if path and number > 1]
    if names:
        yield f'{len(names)} images are listed several times: {first_names(names)}'


def file_name(image: dict[str, Any]) -> str:
    """Name an image of an annotation file."""
    return str(image.get('file_name', image['id']))


def _judge_mask(shape: Any) -> int:
    if not shape:
        return _NO_MASK
    if isinstance(shape, list):
        return _MASK if any(len(one) in _POLYGONS for one in shape) else _UNUSABLE
    usable = isinstance(shape.get('counts'), (list, str)) and bool(shape.get('size'))
    return _RLE if usable else _UNUSABLE
