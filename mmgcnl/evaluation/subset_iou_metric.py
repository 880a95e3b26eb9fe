"""Intersection over union of some classes and of some images alone."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.registry import METRICS
from mmseg.evaluation import IoUMetric


@METRICS.register_module()
class SubsetIoUMetric(IoUMetric):
    """mmseg's IoUMetric, and the same of subsets of the classes and of the images.

    Besides ``aAcc``, ``mIoU`` and ``mAcc`` it yields ``IoU/CLASS`` for each class,
    ``mIoU_NAME`` for each subset of the classes, and all but the single classes as
    ``NAME/...`` for each subset of the images. A class that does not occur, and a subset
    without images, yields nothing. All in percent.

    Args:
        classes (dict[str, list[str]]): The classes of each subset. Default: none.
        images (dict[str, str]): How the file names of each subset's images start.
            Default: none.
        **kwargs: See IoUMetric, ``iou_metrics`` excepted: it is ``['mIoU']``.
    """

    def __init__(
        self,
        classes: Mapping[str, Sequence[str]] = {},
        images: Mapping[str, str] = {},
        **kwargs: Any,
    ) -> None:
        super().__init__(iou_metrics=['mIoU'], **kwargs)
        self.classes = dict(classes)
        self.images = dict(images)

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Count the pixels of each image. ``data_samples`` are mmseg's, as dicts."""
        for sample in data_samples:
            super().process(data_batch, [sample])
            if not self.format_only:
                name = os.path.basename(sample['img_path'])
                self.results[-1] = (name, self.results[-1])

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Percentages by their names.

        Raises:
            ValueError: A subset has a class that the data set does not have.
        """
        metrics = super().compute_metrics([areas for _, areas in results])
        if self.format_only:
            return metrics
        names = list(self.dataset_meta['classes'])
        for subset in self.classes.values():
            unknown = sorted(set(subset) - set(names))
            if unknown:
                raise ValueError(f'classes={unknown}: the data set has {", ".join(names)}')
        iou = self._iou(results)
        metrics.update({f'IoU/{k}': v for k, v in zip(names, iou) if np.isfinite(v)})
        metrics.update(self._subsets_of_classes(names, iou))
        for group, start in self.images.items():
            members = [result for result in results if result[0].startswith(start)]
            if not members:
                continue
            total = sum(areas[0].sum() for _, areas in members)
            labelled = sum(areas[3].sum() for _, areas in members)
            iou = self._iou(members)
            found = dict(
                aAcc=round(100 * float(total / labelled), 2),
                mIoU=round(float(np.nanmean(iou)), 2),
                **self._subsets_of_classes(names, iou),
            )
            metrics.update({f'{group}/{name}': value for name, value in found.items()})
        return metrics

    def _subsets_of_classes(self, names: list[str], iou: np.ndarray) -> dict[str, float]:
        found = {}
        for name, subset in self.classes.items():
            values = iou[[names.index(c) for c in subset]]
            if np.isfinite(values).any():
                found[f'mIoU_{name}'] = round(float(np.nanmean(values)), 2)
        return found

    def _iou(self, results: list) -> np.ndarray:
        """Of each class in percent, NaN for one that does not occur."""
        areas = [sum(parts) for parts in zip(*(areas for _, areas in results))]
        return 100 * self.total_area_to_metrics(*areas)['IoU'].astype(float)
