"""Annotations that do not belong to their classes, their images, or their split.

Nothing in mmdet or mmseg stops at what is found here: a misspelt class has no objects,
and mmdet numbers the others differently; a metric is computed over other classes than
those that were trained; a validation image that was trained on looks like a good result.

Shape shorthand: H, W: pixels; C: classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset
from mmengine.fileio import list_dir_or_file, load

from mmgcnl.structures import read_segment_ids
from mmgcnl.utils.text import first_names

#: How far outside of its image an annotation may be, in pixels: corners are rounded.
TOLERANCE = 1.0
_MALFORMED = (AttributeError, KeyError, TypeError, ValueError)


@dataclass
class Report:
    """What a split of a config contains.

    Attributes:
        name: Name of the split, or the names of several that are the same.
        dataset: Class and paths of the data set.
        num_images: Images that the config uses, faulty ones included.
        classes: Names of the C classes.
        metainfo: ``metainfo`` of the data set, with the classes.
        images: (C,), number of images in which each class occurs.
        amounts: (C,), number of pixels, or of objects, of each class.
        unit: 'pixels' or 'objects'; empty without annotations.
        faults: A line for each fault, which names the file.
        notes: A line for what is unusual but may be intended: classes without objects,
            objects without a class, training images in another split.
        digests: File of each image by the digest of its pixels.
        samples: Name and RGB image (H, W, 3) of a few images with their annotation.
    """

    name: str
    dataset: str
    num_images: int = 0
    classes: tuple[str, ...] = ()
    metainfo: dict[str, Any] = field(default_factory=dict)
    images: np.ndarray = field(default_factory=lambda: np.zeros(0, int))
    amounts: np.ndarray = field(default_factory=lambda: np.zeros(0, int))
    unit: str = ''
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    digests: dict[str, str] = field(default_factory=dict)
    samples: list[tuple[str, np.ndarray]] = field(default_factory=list)


def check_annotations(dataset: BaseDataset) -> tuple[list[str], list[str]]:
    """Compare the annotations of a data set with its classes and its images.

    Args:
        dataset: A data set that is fully initialised.

    Returns:
        Faults, and notes on what is unusual but may be intended.
    """
    classes = dataset.metainfo.get('classes') or ()
    if isinstance(classes, str):
        return [
            f'metainfo.classes is the text {classes!r}: give a tuple of names, also for a '
            f'single class, ({classes!r},)'
        ], []
    if not classes:
        return ['no class names: set metainfo.classes of the data set'], []
    if getattr(dataset, 'cat_ids', None) is not None and dataset.ann_file.endswith('.json'):
        content = load(dataset.ann_file, backend_args=dataset.backend_args)
        if isinstance(content, dict) and 'categories' in content:
            try:
                return _check_coco(dataset.ann_file, content, classes)
            except _MALFORMED as error:
                return [f'{dataset.ann_file}: {_explain(error)}'], []
    return [], list(_find_other_suffixes(dataset))


def compare_splits(reports: Sequence[Report]) -> None:
    """Compare the data sets of a config with its training data.

    Other classes are added to the faults of the reports; images that are also training
    images, by the content of their pixels, to the notes.
    """
    training = [report for report in reports if report.name.startswith('train')]
    if not training:
        return
    classes = next((report.classes for report in training if report.classes), ())
    seen = {k: path for report in training for k, path in report.digests.items()}
    for report in reports:
        if report.classes and classes and report.classes != classes:
            report.faults.append(
                f'{_list(report.classes)} are the classes here, and {_list(classes)} those '
                'of the training data: set metainfo of all data sets to the same'
            )
        if report in training:
            continue
        pairs = [f'{path} = {seen[k]}' for k, path in report.digests.items() if k in seen]
        if pairs:
            report.notes.append(
                f'{len(pairs)} of the images are also training images: {first_names(pairs)}'
            )


def _list(classes: Sequence[str]) -> str:
    return f'{len(classes)} ({first_names(classes)})'


def _check_coco(
    path: str, content: dict[str, Any], classes: Sequence[str]
) -> tuple[list[str], list[str]]:
    names = {category['id']: category['name'] for category in content['categories']}
    faults, notes = [], []
    missing = [name for name in classes if name not in names.values()]
    kept = [name for name in names.values() if name in classes]
    if missing:
        faults.append(
            f'{path} has no category {first_names(missing)}, which metainfo.classes names, '
            f'and mmdet would number the classes after it differently; the file has '
            f'{first_names(list(names.values()))}'
        )
    elif kept != list(classes):
        faults.append(
            f'metainfo.classes is ({first_names(classes)}), but mmdet numbers the classes '
            f'in the order of {path}: give ({first_names(kept)})'
        )
    objects = list(_objects(content))
    number = Counter(names.get(one['category_id']) for one in objects)
    unused = [f'{name} ({number[name]})' for name in names.values() if name not in classes]
    if unused:
        notes.append(
            f'{path} has categories that metainfo.classes does not name, with this many '
            f'objects, which are left out: {first_names(unused)}'
        )
    images = {image['id']: image for image in content['images']}
    unsized = {
        key: str(image.get('file_name', key))
        for key, image in images.items()
        if not all(
            isinstance(image.get(k), (int, float)) and image[k] > 0
            for k in ('width', 'height')
        )
    }
    if unsized:
        faults.append(
            f'{path}: no valid width and height in {len(unsized)} of {len(images)} images: '
            f'{first_names(list(unsized.values()))}'
        )
    empty = []
    for one in objects:
        where = f'{path}: annotation {one.get("id")}'
        image = images.get(one['image_id'])
        if image is None:
            faults.append(f'{where}: there is no image {one["image_id"]}')
            continue
        where += f' of {image.get("file_name", image["id"])}'
        if one['category_id'] not in names:
            faults.append(f'{where}: there is no category {one["category_id"]}')
        if image['id'] in unsized:
            continue
        try:
            faults += [f'{where}: {fault}' for fault in _outside(one, image)]
            if 'bbox' in one and min(one['bbox'][2:]) <= 0:
                empty.append(str(one.get('id')))
        except _MALFORMED as error:
            faults.append(f'{where}: {_explain(error)}')
    if empty:
        notes.append(
            f'{path}: {len(empty)} annotations have a box without area and are left out: '
            f'{first_names(empty)}'
        )
    return faults, notes


def _explain(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f'an entry lacks {error}'
    return f"not as in COCO's format ({type(error).__name__}: {error})"


def _objects(content: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the objects of COCO's instance or panoptic format."""
    for annotation in content.get('annotations', ()):
        if 'segments_info' in annotation:
            for segment in annotation['segments_info']:
                yield dict(segment, image_id=annotation['image_id'])
        elif 'category_id' in annotation:
            yield annotation


def _outside(one: dict[str, Any], image: dict[str, Any]) -> Iterator[str]:
    """Find a box or a mask that is not inside its image."""
    width, height = image['width'], image['height']
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
            if _is_outside(np.reshape(polygon, (-1, 2)), width, height):
                yield f'the mask is not inside the image, {width}x{height}'
                break


def _is_outside(points: np.ndarray, width: int, height: int) -> bool:
    inside = (points >= -TOLERANCE) & (points <= np.array([width, height]) + TOLERANCE)
    return not inside.all()  # also for NaN


def _find_other_suffixes(dataset: BaseDataset) -> Iterator[str]:
    """Find images that mmseg leaves out because their names end differently."""
    suffix = getattr(dataset, 'img_suffix', None)
    folder = dataset.data_prefix.get('img_path')
    if suffix is None or not folder or dataset.ann_file:
        return
    files = list_dir_or_file(
        folder,
        list_dir=False,
        suffix=('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.JPG', '.PNG'),
        recursive=True,
        backend_args=dataset.backend_args,
    )
    others = sorted(file for file in files if not file.endswith(suffix))
    if others:
        yield (
            f'{len(others)} images in {folder} do not end with {suffix} and are left out: '
            f'{first_names(others)}; set img_suffix, or rename them'
        )


def find_absent_classes(report: Report) -> Iterator[str]:
    """Find classes that no annotation of the training data has."""
    absent = [name for name, n in zip(report.classes, report.images) if not n]
    if report.name.startswith('train') and report.unit and absent:
        yield f'no {report.unit} of {_list(absent)} of the {len(report.classes)} classes'


def find_mismatches(info: dict, results: dict) -> Iterator[str]:
    """Find images, label maps and annotations that do not belong together."""
    height, width = results['ori_shape'][:2]
    path = info['img_path']
    expected = info.get('height', height), info.get('width', width)
    if expected != (height, width):
        yield (
            f'{path} is {width}x{height}, but {expected[1]}x{expected[0]} in the '
            'annotation file'
        )
    labels = results.get('gt_seg_map')
    if labels is not None and labels.ndim != 2:
        yield (
            f'{info["seg_map_path"]} has {labels.shape[2]} channels: give the numbers of '
            'the classes, from 0, in one channel, and no colors'
        )
    elif labels is not None and labels.shape != (height, width):
        rows, columns = labels.shape
        yield f'{info["seg_map_path"]} is {columns}x{rows}, but {path} {width}x{height}'
    if 'segments_info' in info and 'gt_seg_map' in results:
        ids = {segment['id'] for segment in info['segments_info']}
        absent = ids.difference(np.unique(read_segment_ids(info['seg_map_path'])).tolist())
        if absent:
            yield (
                f'{info["seg_map_path"]} lacks the segments {sorted(absent)} of the '
                'annotation file'
            )
