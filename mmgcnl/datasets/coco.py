"""Faults of an annotation file in COCO's format that mmdet does not stop at.

mmdet and pycocotools find images and annotations by their ids, so that one of two with the
same id is lost, and mmdet numbers the classes in the order of the file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from itertools import islice
from operator import itemgetter
from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset

from mmgcnl.utils.text import first_names

from .left_out import check_left_out, file_name, split_up
from .report import Report

#: How far outside of its image an annotation may be, in pixels: corners are rounded.
TOLERANCE = 1.0
_MALFORMED = (AttributeError, IndexError, KeyError, TypeError, ValueError)


def check_content(
    dataset: BaseDataset, content: dict[str, Any], evaluated: bool, report: Report
) -> None:
    """Check the ids and the classes of an annotation file, and find what is left out.

    Fast enough for the start of a training on COCO. It does not look at the annotations one
    by one, as :func:`check_each_annotation` does.

    Args:
        dataset: The data set that reads the file. It need not be initialised.
        content: The file, as JSON gives it.
        evaluated: Whether COCO's evaluator reads the file, too.
        report: Gets the faults, and notes on what may be intended.
    """
    path, classes = dataset.ann_file, dataset.metainfo['classes']
    annotations = content.get('annotations') or []
    panoptic = 'segments_info' in annotations[0] if annotations else False
    objects: list[dict] = []
    ids: list[Any] = []
    kinds: list[Any] = []
    crowds: list[str] = []
    try:
        for part in split_up(annotations):
            some = _objects(part)
            objects += some
            ids += map(itemgetter('image_id', 'id') if panoptic else itemgetter('id'), some)
            kinds += map(itemgetter('category_id'), some)
            if not panoptic:
                crowds += _find_wrong_crowds(some, evaluated)
        _check_categories(content['categories'], classes, kinds, path, report)
        _check_image_ids(content['images'], path, report)
        _check_annotation_ids(ids, evaluated, path, report)
        images = {one['id']: one for one in content['images'] if _has_size(one)}
        unsized = [file_name(one) for one in content['images'] if one['id'] not in images]
        if unsized:
            report.faults.append(
                f'{path}: no valid width and height in {len(unsized)} of '
                f'{len(content["images"])} images: {first_names(unsized)}'
            )
        # LVIS, for example, leaves out annotations by rules of its own, and has no iscrowd.
        parse = type(dataset).parse_data_info.__qualname__
        if parse in ('CocoDataset.parse_data_info', 'CocoPanopticDataset.parse_data_info'):
            if crowds:
                report.faults.append(
                    f'{path}: the `iscrowd` of {len(crowds)} annotations is a text, or '
                    f"lacks where COCO's evaluator needs it: {first_names(crowds)}; give "
                    'the number 0, for groups 1'
                )
            known = {one['id'] for one in content['categories']}
            ours = {one['id'] for one in content['categories'] if one['name'] in classes}
            if kinds and known.isdisjoint(kinds):
                report.faults.append(f'{path}: all annotations are left out')
            elif ours.isdisjoint(kinds):
                report.notes.append(f'{path} has no annotation of the classes')
            masks = not panoptic and any(
                getattr(step, 'with_mask', False) for step in dataset.pipeline.transforms
            )
            check_left_out(path, objects, images, ours, panoptic, masks, report)
    except _MALFORMED as error:
        each = list(islice(check_each_annotation(path, content), 3))
        report.faults += each or [f'{path}: {_explain(error)}']


def check_each_annotation(path: str, content: dict[str, Any]) -> Iterator[str]:
    """Find annotations without their image or category, and those that are outside.

    Args:
        path: The annotation file, for the messages.
        content: The file, as JSON gives it.
    """
    images = {image.get('id'): image for image in content.get('images', ())}
    ids = {category.get('id') for category in content.get('categories', ())}
    for one in _objects(content.get('annotations') or []):
        where = f'{path}: annotation {one.get("id")}'
        try:
            image = images.get(one['image_id'])
            if image is None:
                yield f'{where}: there is no image {one["image_id"]!r}'
                continue
            where += f' of {file_name(image)}'
            if one['category_id'] not in ids:
                yield f'{where}: there is no category {one["category_id"]!r}'
            if _has_size(image):
                yield from (f'{where}: {fault}' for fault in _find_outside(one, image))
        except _MALFORMED as error:
            yield f'{where}: {_explain(error)}'


def check_boxes(path: str, content: dict[str, Any], report: Report) -> None:
    """Find copies, and boxes that are not those of their masks, or else of their areas.

    Args:
        path: The annotation file, for the messages.
        content: The file, as JSON gives it.
        report: Gets a fault, if most boxes are corners instead of a corner and a size, and
            notes on boxes that are not around their masks, and on copies of annotations.
    """
    seen: set[tuple] = set()
    copies: list[str] = []
    corners: list[str] = []
    others: list[str] = []
    objects = _objects(content.get('annotations') or [])
    for one in objects:
        try:
            x, y, w, h = one['bbox']
            place = one['image_id'], one['category_id'], x, y, w, h
            if place in seen:
                copies.append(str(one['id']))
            seen.add(place)
            shape = one.get('segmentation')
            if shape and isinstance(shape, list):
                parts = [np.reshape(part, (-1, 2)) for part in shape if len(part) >= 6]
                points = np.concatenate(parts)
                expected = np.concatenate([points.min(0), points.max(0)])
                # Corners are rounded, and a few pixels more or less are a matter of taste.
                allowed = max(2 * TOLERANCE, 0.1 * max(expected[2:] - expected[:2]))
                away = np.abs(expected - [x, y, x + w, y + h]).max()
                fits = not away > allowed  # NaN is found elsewhere
                as_corners = np.abs(expected - [x, y, w, h]).max() <= TOLERANCE
            else:
                area, fits = one['area'], True
                as_corners = w > x and h > y and abs((w - x) * (h - y) - area) <= TOLERANCE
                as_corners &= abs(w * h - area) > TOLERANCE
        except _MALFORMED:  # found by the other checks
            continue
        if as_corners and (x or y):
            corners.append(str(one['id']))
        elif not fits and not one.get('iscrowd'):
            others.append(str(one['id']))
    if copies:
        report.notes.append(
            f'{path}: {len(copies)} of {len(objects)} annotations are copies of others, '
            f'with the same image, category and box: {first_names(copies)}; remove them'
        )
    if 2 * len(corners) > len(objects):
        report.faults.append(
            f'{path}: by their masks or areas, {len(corners)} of {len(objects)} boxes are '
            f'x1, y1, x2, y2: those of annotations {first_names(corners)}; give x, y, '
            'width and height'
        )
    elif others:
        report.notes.append(
            f'{path}: {len(others)} of {len(objects)} boxes are not around the masks of '
            f'their annotations: {first_names(others)}; give x, y of the upper left '
            'corner, width and height'
        )


def find_endless_mask(sample: dict[str, Any]) -> str | None:
    """Find a polygon with NaN or of a huge size, at which pycocotools seems to hang.

    Args:
        sample: What mmdet has read of an image and its annotations.

    Returns:
        A sentence that names the image.
    """
    for one in sample.get('instances', ()):
        for part in one.get('mask') or ():
            polygon = part and isinstance(part, list)
            if polygon and not sum(map(abs, part)) < 1e6 * len(part):  # also for NaN
                return (
                    f'{sample["img_path"]}: the mask of the object with the corners '
                    f'{one.get("bbox")} has NaN, infinity or a huge number: correct or '
                    'remove it'
                )
    return None


def _find_wrong_crowds(annotations: Sequence[dict], evaluated: bool) -> list[str]:
    # mmdet takes any text for a crowd, and pycocotools' computeIoU needs the entry.
    wrong = {str, type(None)} if evaluated else {str}
    kinds = [type(one.get('iscrowd')) for one in annotations]
    if wrong.isdisjoint(kinds):
        return []
    return [repr(one['id']) for one, kind in zip(annotations, kinds) if kind in wrong]


def _check_categories(
    categories: Sequence[dict],
    classes: Sequence[str],
    kinds: Sequence[Any],
    path: str,
    report: Report,
) -> None:
    ids, names = ([one[key] for one in categories] for key in ('id', 'name'))
    missing = [name for name in classes if name not in names]
    kept = [name for name in names if name in classes]
    same_id = _repeated(ids, names)
    same_name = _repeated(kept, [i for i, name in zip(ids, names) if name in classes])
    if same_id:
        report.faults.append(
            f'{path} has categories with the same id, of which all but one are lost: '
            f'{same_id}; number them anew'
        )
    if missing:
        report.faults.append(
            f'{path} has no category {first_names(missing)}, which metainfo.classes names, '
            f'and mmdet would number the classes after it differently; the file has '
            f'{first_names(names)}'
        )
    elif same_name:
        report.faults.append(
            f'{path} has several categories with one name, and mmdet makes a class of '
            f'each: {same_name}; merge them in the file, or rename them'
        )
    elif kept != list(classes):
        report.faults.append(
            f'metainfo.classes is ({first_names(classes)}), but mmdet numbers the classes '
            f'in the order of {path}: give ({first_names(kept)})'
        )
    name_of = dict(zip(ids, names))
    number = Counter(map(name_of.get, kinds))
    unused = [f'{n} ({number[n]})' for n in name_of.values() if n not in classes]
    if unused:
        report.notes.append(
            f'{path} has categories that metainfo.classes does not name, with this many '
            f'objects, which are left out: {first_names(unused)}'
        )
    if number[None]:
        report.notes.append(
            f'{path}: {number[None]} annotations are left out, because the file has no '
            'category of their category_id'
        )


def _check_image_ids(images: Sequence[dict], path: str, report: Report) -> None:
    ids, files = [image['id'] for image in images], list(map(file_name, images))
    if same_id := _repeated(ids, files):
        report.faults.append(
            f'{path} has images with the same id, of which all but one are lost, and that '
            f'one gets their objects, too: {same_id}; number the images anew, and the '
            'image_id of the annotations'
        )
    if same_file := _repeated(files, ids):
        report.notes.append(
            f'{path} has images several times, under ids of their own, so that the objects '
            f'of one entry are background in the other: {same_file}'
        )


def _check_annotation_ids(
    ids: Sequence[Any], evaluated: bool, path: str, report: Report
) -> None:
    """Check ids, which are pairs of image and segment in the panoptic format."""
    unique = set(ids)
    if len(unique) < len(ids):
        repeated = [str(key) for key, number in Counter(ids).items() if number > 1]
        report.faults.append(
            f'{path}: annotations have the same id: {first_names(repeated)}; number the '
            'annotations from 1 on'
        )
    # Both are in pycocotools' evaluateImg, which keeps ids as floats, with 0 for "none".
    found = report.faults if evaluated else report.notes
    if str in set(map(type, unique)):
        texts = [repr(key) for key in ids if isinstance(key, str)]
        found.append(
            f"{path}: the ids of {len(texts)} annotations are texts, at which COCO's "
            f'evaluator stops: {first_names(texts)}; number the annotations from 1 on'
        )
    if 0 in unique:
        found.append(
            f"{path}: an annotation has the id 0, which COCO's evaluator takes for no "
            'annotation, so that it can never be found; number the annotations from 1 on'
        )


def _repeated(keys: Sequence[Hashable], values: list[Any]) -> str:
    """Format the keys that have several values, as 'key (value, value), ...'."""
    if len(set(keys)) == len(keys):
        return ''
    found: dict[Hashable, list[str]] = {}
    for key, value in zip(keys, values):
        found.setdefault(key, []).append(str(value))
    return first_names(
        f'{key} ({first_names(some)})' for key, some in found.items() if len(some) > 1
    )


def _objects(annotations: Sequence[dict]) -> list[dict]:
    """List the objects of annotations in COCO's instance or panoptic format."""
    if not annotations or 'segments_info' not in annotations[0]:
        return [one for one in annotations if 'category_id' in one]
    # mmdet adds the image_id to the segments when it reads them.
    return [
        segment if 'image_id' in segment else dict(segment, image_id=one['image_id'])
        for one in annotations
        for segment in one['segments_info']
    ]


def _explain(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f'an entry lacks {error}'
    return f"not as in COCO's format ({type(error).__name__}: {error})"


def _has_size(image: dict[str, Any]) -> bool:
    sizes = image.get('width'), image.get('height')
    return all(isinstance(size, (int, float)) and size > 0 for size in sizes)


def _find_outside(one: dict[str, Any], image: dict[str, Any]) -> Iterator[str]:
    """Find a box or a mask that is not inside its image."""
    width, height = image['width'], image['height']
    if any(isinstance(v, str) for v in [*one.get('bbox', ()), one.get('area')]):
        raise TypeError('bbox or area is a text: give numbers')
    if 'bbox' in one:
        x, y, w, h = one['bbox']
        if _is_outside(np.array([[x, y], [x + w, y + h]]), width, height):
            yield f'the box {one["bbox"]} is not inside the image, {width}x{height}'
    shape = one.get('segmentation')
    if isinstance(shape, dict):
        if list(shape['size']) != [height, width]:
            rows, columns = shape['size']
            yield f'the mask is {columns}x{rows}, but the image {width}x{height}'
    elif shape:
        for polygon in shape:
            if not isinstance(polygon, list):
                raise TypeError('segmentation must be a list of polygons, which are lists')
            if _is_outside(np.reshape(polygon, (-1, 2)), width, height):
                yield f'the mask is not inside the image, {width}x{height}'
                break


def _is_outside(points: np.ndarray, width: int, height: int) -> bool:
    inside = (points >= -TOLERANCE) & (points <= np.array([width, height]) + TOLERANCE)
    return not inside.all()  # also for NaN
