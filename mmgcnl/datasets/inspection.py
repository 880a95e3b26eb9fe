"""Inspection of all the data that a config trains and evaluates on.

Shape shorthand: H, W: pixels.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib.figure
import numpy as np
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.fileio import get
from mmengine.registry import (
    DATASETS,
    TRANSFORMS,
    VISUALIZERS,
    DefaultScope,
    init_default_scope,
)
from mmengine.utils import track_iter_progress
from PIL import Image, UnidentifiedImageError
from torch.utils.data import DataLoader, Dataset

from mmgcnl.utils.config_types import scope_of, type_name, visualizer_of
from mmgcnl.utils.text import first_cause

from .label_maps import check_number_of_classes, find_other_suffixes
from .loading import (
    LOAD_ERRORS,
    NO_SAMPLE,
    CheckedCompose,
    check_folders,
    describe,
    explain,
    leaf_datasets,
    load_checked,
)
from .orientation import describe_turned, is_turned_unnoticed, no_size_limit
from .pictures import find_reader, to_picture
from .report import (
    Report,
    find_absent_classes,
    find_absent_segments,
    find_unusable_classes,
)
from .splits import check_evaluators, check_truth, compare_splits, metrics_of

SPLITS = ('train', 'val', 'test')


def inspect_data(cfg: Config, num_samples: int = 0) -> Iterator[Report]:
    """Read every image and every annotation of a config's data sets.

    Args:
        cfg: A config of mmdet or mmseg.
        num_samples: How many images of each split to draw.

    Yields:
        A report for each data set, of which a split may have several. After the last one,
        the results of comparing the splits are added to all.
    """
    init_default_scope(scope_of(cfg))
    visualizer = _build_visualizer(cfg) if num_samples else None
    seen: dict[str, Any] = {}
    reports = []
    for split in SPLITS:
        loader = cfg.get(f'{split}_dataloader')
        if loader is not None:
            same = [name for name, other in seen.items() if other == loader.dataset]
            if same:
                seen[f'{same[0]}, {split}'] = seen.pop(same[0])
            else:
                seen[split] = loader.dataset
    for name, config in seen.items():
        workers = cfg[f'{name.split(",")[0]}_dataloader'].get('num_workers', 0)
        # Test data may have no labels, which only its server knows.
        metrics = metrics_of(cfg, ['val'] if 'val' in name else [])
        parts = list(leaf_datasets(config))
        for index, part in enumerate(parts):
            title = f'{name} {index + 1}/{len(parts)}' if len(parts) > 1 else name
            report = Report(title, describe(part))
            if index == 0:
                report.faults += check_evaluators(cfg, name.split(', '))
            print(f'{title}: {report.dataset}', flush=True)
            _inspect(part, report, workers, visualizer, num_samples, metrics)
            reports.append(report)
            yield report
    compare_splits(reports)


def draw_samples(reports: list[Report], path: str | Path) -> None:
    """Draw the samples of the reports into one PNG, a row per report."""
    columns = max(len(report.samples) for report in reports)
    figure = matplotlib.figure.Figure(
        figsize=(4 * columns, 3.3 * len(reports)), layout='constrained'
    )
    axes = figure.subplots(len(reports), columns, squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    for row, report in zip(axes, reports):
        for ax, (name, image) in zip(row, report.samples):
            ax.imshow(image)
            ax.set_title(f'{report.name}: {name}', fontsize=9)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _inspect(
    config: dict,
    report: Report,
    workers: int,
    visualizer: Any,
    num_samples: int,
    metrics: list[tuple[type, dict]],
) -> None:
    """Fill in the report of one data set."""
    pipeline = config.get('pipeline', [])
    loads = [step for step in pipeline if type_name(step['type']).startswith('Load')]
    try:
        dataset = DATASETS.build(dict(config, pipeline=loads, lazy_init=True))
        check_folders(dataset)
    except LOAD_ERRORS as error:
        report.faults.append(explain(error))
        return
    evaluated = 'val' in report.name or 'test' in report.name
    # The data set's own full_init may stop at the first fault.
    full_init = partial(BaseDataset.full_init, dataset)
    if not load_checked(dataset, report, evaluated, full_init, thorough=True):
        return
    report.describe(dataset)
    report.faults += find_unusable_classes(dataset.metainfo)
    report.faults += check_number_of_classes(dataset)
    report.notes += find_other_suffixes(dataset)
    if not report.num_images:
        report.faults.append(NO_SAMPLE)
        return
    report.images = np.zeros(len(report.classes), int)
    report.amounts = np.zeros(len(report.classes), int)

    loader = DataLoader(
        _Samples(dataset),
        batch_size=None,
        collate_fn=tuple,  # leave arrays what they are
        num_workers=min(workers, os.cpu_count() or 1),
    )
    sound, turned = [], []
    for index, (faults, unit, labels, counts, digest, unnoticed) in enumerate(
        track_iter_progress((loader, report.num_images))
    ):
        if digest:
            report.digests[digest] = dataset.get_data_info(index)['img_path']
        report.faults += faults
        if not faults:
            sound.append(index)
        report.unit = report.unit or unit
        if unnoticed:
            turned.append(dataset.get_data_info(index)['img_path'])
        inside = labels < len(report.classes)
        report.images[labels[inside]] += 1
        report.amounts[labels[inside]] += counts[inside]
        report.ignored += int(counts[~inside].sum())
    report.notes += find_absent_classes(report)
    if turned:
        report.notes.append(describe_turned(turned))
    if sound and metrics:
        report.faults += check_truth(dataset, pipeline, sound[0], metrics)

    if visualizer is not None:
        visualizer.dataset_meta = dataset.metainfo
        pack = TRANSFORMS.build(dict(_pack(pipeline), meta_keys=('img_path',)))
        chosen = np.linspace(0, len(sound) - 1, min(num_samples, len(sound)))
        for index in chosen.astype(int):
            info = dataset.get_data_info(sound[index])
            try:
                reader = find_reader(dataset.pipeline.transforms)
                image = _draw(visualizer, dataset.pipeline(dict(info)), pack, reader.rgb)
            except Exception as error:  # the report is worth more than a picture
                report.notes.append(
                    f'{info["img_path"]} is not drawn: {first_cause(error)}'
                )
                continue
            report.samples.append((os.path.basename(info['img_path']), image))


def _pack(pipeline: list[dict]) -> dict:
    for step in pipeline:
        if type_name(step['type']).startswith('Pack'):
            return step
    # Where a wrapper mixes images, such as Mosaic, its pipeline packs them.
    scope = DefaultScope.get_current_instance().scope_name
    return dict(type='PackDetInputs' if scope == 'mmdet' else 'PackSegInputs')


class _Samples(Dataset):
    """Yields what is found in each image of a data set.

    Faults, unit, labels, amounts, digest, and whether its EXIF orientation turns it.
    """

    def __init__(self, dataset: BaseDataset) -> None:
        self.dataset = dataset
        self.pipeline = CheckedCompose(dataset)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(
        self, index: int
    ) -> tuple[list[str], str, np.ndarray, np.ndarray, str, bool]:
        info = self.dataset.get_data_info(index)
        nothing = '', np.zeros(0, int), np.zeros(0, int)
        try:
            results = self.pipeline(dict(info))
        except RuntimeError as error:
            return [str(error)], *nothing, '', False
        if results is None:  # LoadImageFromFile(ignore_empty=True)
            return [f'{info.get("img_path")} cannot be read'], *nothing, '', False
        digest = _digest(results.get('img'))
        backend_args = getattr(self.dataset, 'backend_args', None)
        faults = [
            *_find_truncated(info, self.dataset),
            *find_absent_segments(info, results),
        ]
        if 'gt_seg_map' in results:
            unit, values = 'pixels', results['gt_seg_map']
        elif 'gt_bboxes_labels' in results:
            counted = ~results['gt_ignore_flags']
            unit, values = 'objects', results['gt_bboxes_labels'][counted]
        else:
            return faults, *nothing, digest, False
        turned = is_turned_unnoticed(info, results, self.pipeline, backend_args)
        return faults, unit, *np.unique(values, return_counts=True), digest, turned


def _digest(image: Any) -> str:
    """Digest the pixels of an image: the same for copies of it in other files."""
    if not isinstance(image, np.ndarray):  # a video
        return ''
    digest = hashlib.blake2b(np.ascontiguousarray(image).tobytes(), digest_size=16)
    return f'{image.shape} {digest.hexdigest()}'


def _find_truncated(info: dict, dataset: BaseDataset) -> Iterator[str]:
    """Find truncated images, which OpenCV often completes with gray without an error."""
    backend_args = getattr(dataset, 'backend_args', None)
    for path in (info['img_path'], info.get('seg_map_path')):
        if path is None:
            continue
        try:
            with no_size_limit(), Image.open(BytesIO(get(path, backend_args))) as image:
                image.load()
        except (UnidentifiedImageError, FileNotFoundError):
            pass  # the pipeline reports it if it reads the file
        except Exception as error:  # decoders raise all kinds of errors
            reason = str(error) or type(error).__name__
            yield f'{path}: {reason}; replace the file'


def _build_visualizer(cfg: Config) -> Any:
    # mmengine keeps visualizers by name: a new name makes a new one. It needs no backend
    # to save to, because the pictures are collected here.
    name = f'inspection_{time.time_ns()}'
    return VISUALIZERS.build(dict(visualizer_of(cfg), vis_backends=None, name=name))


def _draw(visualizer: Any, results: dict, pack: Any, rgb: bool) -> np.ndarray:
    """Draw the loaded image with its annotation: (H, W, 3), RGB, uint8."""
    image = to_picture(results['img'], rgb)
    sample = pack.transform(results)['data_samples']
    if 'gt_instances' in sample:
        if not len(sample.gt_instances):
            del sample.gt_instances
        elif 'bboxes' in sample.gt_instances:
            sample.gt_instances.bboxes = sample.gt_instances.bboxes.tensor
    visualizer.add_datasample('sample', image, sample, draw_pred=False)
    return visualizer.get_image()
