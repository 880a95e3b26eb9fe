"""Intersection over union, also for subsets of the classes and of the images."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.registry import METRICS
from mmseg.evaluation import IoUMetric


@METRICS.register_module()
class SubsetIoUMetric(IoUMetric):
    """mmseg's IoUMetric, also for subsets of the classes and of the images.

    Besides ``aAcc``, ``mIoU`` and ``mAcc`` it reports ``IoU/CLASS`` for each class and
    ``mIoU_NAME`` for each subset of the classes; and for each subset of the images
    ``NAME/aAcc``, ``NAME/mIoU`` and ``NAME/mIoU_SUBSET``. All values are in percent. A
    class that does not occur and a subset without images are left out.

    Args:
        classes: The classes of each subset, by its name.
        images: The prefix that the file names of each subset's images have, by its name.
        **kwargs: See mmseg's IoUMetric. ``iou_metrics`` is always ``['mIoU']``.
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
        """Count the pixels of each image."""
        for sample in data_samples:
            super().process(data_batch, [sample])
            if not self.format_only:
                name = os.path.basename(sample['img_path'])
                self.results[-1] = (name, self.results[-1])

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Compute the percentages, by their names.

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
        """Average over each subset of the classes that has any which occurs."""
        found = {}
        for name, subset in self.classes.items():
            values = iou[[names.index(c) for c in subset]]
            if np.isfinite(values).any():
                found[f'mIoU_{name}'] = round(float(np.nanmean(values)), 2)
        return found

    def _iou(self, results: list) -> np.ndarray:
        """Compute the IoU of each class in percent, NaN for a class that does not occur."""
        areas = [sum(parts) for parts in zip(*(areas for _, areas in results))]
        return 100 * self.total_area_to_metrics(*areas)['IoU'].astype(float)
