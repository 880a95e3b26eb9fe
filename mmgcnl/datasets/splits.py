"""What the data sets of a config have to have in common, and what metrics need of them.

Shape shorthand: H, W: pixels.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.dataset import BaseDataset, Compose
from mmengine.registry import METRICS
from mmengine.structures import BaseDataElement

from mmgcnl.utils.config_types import class_of
from mmgcnl.utils.text import first_names

from .loading import SET_ROOT, leaf_datasets
from .report import SETTINGS, Report, find_unusable_classes, format_classes

# What metrics take from a sample, without which a training ends at its first validation.
_NEEDED = dict(
    IoUMetric='gt_sem_seg',
    ProbeMetric='gt_sem_seg',
    SemSegMetric='gt_sem_seg',
    VOCMetric='gt_instances.labels',
    CocoMetric='img_id',
    CocoPanopticMetric='img_id',
    PanopticQuality='img_id',
)


def describe_loaded(name: str, dataset: Any) -> list[Report]:
    """Report on the parts of a data set that is loaded, for the split of this name."""
    parts = [part for part in leaf_datasets(dataset) if isinstance(part, BaseDataset)]
    reports = []
    for number, part in enumerate(parts, 1):
        title = f'{name} {number}/{len(parts)}' if len(parts) > 1 else name
        report = Report(title, type(part).__name__)
        report.describe(part)
        if 'ignore_index' in report.settings:  # of mmseg's data sets
            report.faults += find_unusable_classes(part.metainfo)
        reports.append(report)
    return reports


def compare_splits(reports: Sequence[Report]) -> None:
    """Compare the data sets of a config with its training data.

    Reports get other classes and ways to read label maps as faults, and images that are
    also training images, by their pixels, as notes.
    """
    training = [report for report in reports if report.name.startswith('train')]
    if not training:
        return
    first = next((report for report in training if report.classes), training[0])
    seen = {k: path for report in training for k, path in report.digests.items()}
    for report in reports:
        if report.classes and first.classes and report.classes != first.classes:
            report.faults.append(
                f'{format_classes(report.classes)} are the classes here, and '
                f'{format_classes(first.classes)} those of the training data: set metainfo '
                'of all data sets to the same'
            )
        elif report is not first:
            _compare_settings(report, first)
        if report in training:
            continue
        pairs = [f'{path} = {seen[k]}' for k, path in report.digests.items() if k in seen]
        if pairs:
            report.notes.append(
                f'{len(pairs)} of the images are also training images: {first_names(pairs)}'
            )
    _find_ignored_class(reports, training[0])


def _compare_settings(report: Report, first: Report) -> None:
    for key in ('thing_classes', 'stuff_classes'):
        here, there = report.metainfo.get(key), first.metainfo.get(key)
        if here is not None and there is not None and tuple(here) != tuple(there):
            report.faults.append(
                f'metainfo.{key} is not that of the training data: set metainfo of all '
                'data sets to the same'
            )
    for key in SETTINGS:
        if key not in report.settings or key not in first.settings:
            continue
        here, there = report.settings[key], first.settings[key]
        if here == there:
            continue
        text = f'{key} is {here!r} here, and {there!r} for the training data'
        # Classes of data sets have their own files, which these settings belong to.
        if key == 'seg_map_suffix' or report.settings['type'] != first.settings['type']:
            report.notes.append(f'{text}: right only if the label maps differ')
        else:
            report.faults.append(f'{text}: set it to the same for all data sets')


def _find_ignored_class(reports: Sequence[Report], training: Report) -> None:
    """Find a class that may be what is ignored: labels 0 and 255 for two classes."""
    labelled = [report for report in reports if report.unit == 'pixels']
    # Pixels that the reading makes ignored are meant to be.
    stored = any(
        report.ignored
        and 'ignore_index' in report.settings
        and not report.settings.get('reduce_zero_label')
        and not report.settings.get('label_map')
        for report in labelled
    )
    if not stored or any(report.classes != training.classes for report in labelled):
        return
    trained = [report for report in labelled if report.name.startswith('train')]
    occurring = np.sum([report.images for report in labelled], axis=0)
    in_training = np.sum([report.images for report in trained], axis=0)
    if trained and (in_training > 0).sum() < 2:
        occurring = in_training  # as find_only_class does
    absent = [name for name, number in zip(training.classes, occurring) if not number]
    if absent:
        ignored = sum(report.ignored for report in labelled)
        total = ignored + sum(int(report.amounts.sum()) for report in labelled)
        share = 100 * ignored / total
        training.faults.append(
            f'no split has pixels of {format_classes(absent)}, but {share:.2f} % of them '
            f'have the value {training.settings["ignore_index"]}, which is ignored: number '
            f'the classes from 0 to {len(training.classes) - 1}, or remove those that are '
            'not there from metainfo.classes'
        )


def find_missing_truth(
    metrics: Sequence[tuple[type, Mapping[str, Any]]], sample: Any
) -> Iterator[str]:
    """Find what metrics need, and a sample of the data that is evaluated lacks.

    Args:
        metrics: The class of each metric, with its options or attributes.
        sample: What the pipeline of the data set gives.
    """
    data = sample.get('data_samples') if isinstance(sample, dict) else None
    if isinstance(data, list):  # of test-time augmentation
        data = data[0]
    if not isinstance(data, BaseDataElement):
        return
    for kind, options in metrics:
        needed = (_NEEDED.get(base.__name__) for base in kind.__mro__)
        key = next(filter(None, needed), None)
        if key is None or key.startswith('gt_') and options.get('format_only'):
            continue
        if not _has(data, key):
            remedy = 'add it to the meta_keys of the last step'
            if key.startswith('gt_'):
                remedy = "add dict(type='LoadAnnotations'), after Resize"
            yield (
                f'{kind.__name__} needs {key}, which the pipeline of the data set does not '
                f'give: {remedy}'
            )
        elif key == 'gt_sem_seg' and data.gt_sem_seg.shape != tuple(data.ori_shape[:2]):
            (height, width), (rows, columns) = data.ori_shape[:2], data.gt_sem_seg.shape
            yield (
                f'{kind.__name__} compares in the size of the image, {width}x{height}, but '
                f'the pipeline resizes the label map to {columns}x{rows}: put '
                'LoadAnnotations after Resize'
            )


def _has(data: BaseDataElement, key: str) -> bool:
    for name in key.split('.'):
        if name not in data:
            return False
        data = data.get(name)
    return True


def check_truth(
    dataset: BaseDataset,
    pipeline: Sequence[dict],
    index: int,
    metrics: Sequence[tuple[type, Mapping[str, Any]]],
) -> Iterator[str]:
    """Find what metrics lack in a sample of a data set as a whole pipeline gives it.

    The data set's own pipeline may only load; see :func:`find_missing_truth`.
    """
    if type(dataset).prepare_data is not BaseDataset.prepare_data:
        return  # of videos, for example
    info = dataset.get_data_info(index)
    path = info['img_path']
    try:
        sample = Compose(pipeline)(info)
    except Exception as error:
        yield f'the pipeline fails on {path}: {type(error).__name__}: {error}'
    else:
        yield from find_missing_truth(metrics, sample)


def metrics_of(cfg: Config, splits: Sequence[str]) -> list[tuple[type, dict]]:
    """Find the class and the options of the metrics of some splits."""
    found = [(class_of(one, METRICS), dict(one)) for _, one in _evaluators(cfg, splits)]
    return [(kind, options) for kind, options in found if isinstance(kind, type)]


def check_evaluators(cfg: Config, splits: Sequence[str]) -> Iterator[str]:
    """Find missing files of the evaluators, whose paths ignore the data sets' data_root."""
    for split, one in _evaluators(cfg, splits):
        for key in ('ann_file', 'seg_prefix'):
            path = one.get(key)
            if path and '://' not in path and not os.path.exists(path):
                yield (
                    f'{split}_evaluator.{key}: no such file or folder: {path}; {SET_ROOT}'
                )


def _evaluators(cfg: Config, splits: Sequence[str]) -> Iterator[tuple[str, dict]]:
    for split in splits:
        evaluators = cfg.get(f'{split}_evaluator') or []
        for one in evaluators if isinstance(evaluators, list) else [evaluators]:
            yield split, one
