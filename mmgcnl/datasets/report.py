"""What a split of a config contains, and what is wrong with its annotations.

Nothing in mmdet or mmseg stops at what is found here: a misspelt class has no objects,
and mmdet numbers the others differently; a metric is computed over other classes than
those that were trained; a validation image that was trained on looks like a good result.

Shape shorthand: H, W: pixels; C: classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset

from mmgcnl.structures import read_segment_ids
from mmgcnl.utils.text import first_names

# What mmseg's data sets read label maps with.
SETTINGS = ('reduce_zero_label', 'ignore_index', 'label_map', 'seg_map_suffix')


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
        ignored: Number of pixels of no class.
        settings: What the labels are read with, and ``type``, the data set's class.
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
    ignored: int = 0
    settings: dict[str, Any] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    digests: dict[str, str] = field(default_factory=dict)
    samples: list[tuple[str, np.ndarray]] = field(default_factory=list)

    def describe(self, dataset: BaseDataset) -> None:
        """Note the number of images, the classes and the settings of a loaded data set."""
        classes = dataset.metainfo.get('classes') or ()
        self.num_images = len(dataset)
        self.classes = () if isinstance(classes, str) else tuple(classes)
        self.metainfo = dataset.metainfo
        self.settings = {
            key: getattr(dataset, key) for key in SETTINGS if hasattr(dataset, key)
        }
        self.settings['type'] = type(dataset).__name__


def find_unusable_classes(metainfo: Mapping[str, Any]) -> Iterator[str]:
    """Find class names that are missing, or a text instead of several."""
    classes = metainfo.get('classes')
    if isinstance(classes, str):
        yield (
            f'metainfo.classes is the text {classes!r}: give a tuple of names, also for a '
            f'single class, ({classes!r},)'
        )
    elif not classes:
        yield 'no class names: set metainfo.classes of the data set'


def find_absent_classes(report: Report) -> Iterator[str]:
    """Find classes that no annotation of the training data has."""
    absent = [name for name, n in zip(report.classes, report.images) if not n]
    if report.name.startswith('train') and report.unit and absent:
        yield (
            f'no {report.unit} of {format_classes(absent)} of the {len(report.classes)} '
            'classes'
        )


def format_classes(classes: Sequence[str]) -> str:
    """Format the number of classes and the first names."""
    return f'{len(classes)} ({first_names(classes)})'


def find_absent_segments(info: dict, results: dict) -> Iterator[str]:
    """Find segments of the annotation file that the image of the segments lacks."""
    if 'segments_info' in info and 'gt_seg_map' in results:
        ids = {segment['id'] for segment in info['segments_info']}
        absent = ids.difference(np.unique(read_segment_ids(info['seg_map_path'])).tolist())
        if absent:
            yield (
                f'{info["seg_map_path"]} lacks the segments {sorted(absent)} of the '
                'annotation file'
            )
