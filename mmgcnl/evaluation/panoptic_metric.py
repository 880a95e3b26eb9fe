"""COCO's panoptic quality as a metric for mmdet, without panopticapi."""

from __future__ import annotations

import os.path as osp
from collections.abc import Sequence
from typing import Any

import numpy as np
from mmdet.datasets.api_wrappers import COCOPanoptic
from mmdet.evaluation.metrics.coco_panoptic_metric import (
    parse_pq_results,
    print_panoptic_table,
)
from mmdet.registry import METRICS
from mmengine.evaluator import BaseMetric
from mmengine.fileio import dump, get_local_path
from mmengine.logging import MMLogger

from mmgcnl.structures import (
    PanopticPrediction,
    coco_panoptic,
    read_segment_ids,
    write_segment_ids,
)
from mmgcnl.utils.text import first_names

from .panoptic_quality import average, count_matches


@METRICS.register_module()
class PanopticQuality(BaseMetric):
    """PQ, SQ and RQ in percent, over all classes, things (_th) and stuff (_st).

    The values and their names are those of mmdet's CocoPanopticMetric, which needs
    panopticapi. Where no class occurs, the value is nan instead of an error.

    Args:
        ann_file: COCO's panoptic JSON. With ``format_only`` it needs no annotations.
        seg_prefix: Folder of the true panoptic PNGs. Required unless ``format_only``.
        classwise: Whether to log a table of the classes as well.
        format_only: Whether to write the files for a submission and nothing else.
        outfile_prefix: Where to write the predictions in COCO's format:
            PREFIX.panoptic.json, and PNGs in the folder PREFIX.panoptic, which all
            processes must be able to reach. Default: they are not written.
        backend_args: mmengine's file backend. Default: local files.
        collect_device: See BaseMetric.
        prefix: See BaseMetric.

    Raises:
        ValueError: ``seg_prefix`` or ``outfile_prefix`` is missing, or the classes of
            the data set are not the categories of ``ann_file``.
    """

    default_prefix = 'coco_panoptic'

    def __init__(
        self,
        ann_file: str,
        seg_prefix: str | None = None,
        classwise: bool = False,
        format_only: bool = False,
        outfile_prefix: str | None = None,
        backend_args: dict | None = None,
        collect_device: str = 'cpu',
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        if format_only and outfile_prefix is None:
            raise ValueError('format_only=True writes files: set outfile_prefix')
        if not format_only and seg_prefix is None:
            raise ValueError('seg_prefix=None: set the folder of the panoptic PNGs')
        with get_local_path(ann_file, backend_args) as path:
            self.coco = COCOPanoptic(path)
        self.ann_file = ann_file
        self.seg_prefix = seg_prefix or ''
        self.classwise = classwise
        self.format_only = format_only
        self.outfile_prefix = outfile_prefix
        self.backend_args = backend_args

    # Set before the first epoch, so that wrong classes are reported in time.
    @BaseMetric.dataset_meta.setter  # type: ignore[attr-defined]
    def dataset_meta(self, dataset_meta: dict) -> None:
        """Check the classes of the data set against the categories of ``ann_file``."""
        # CocoPanopticDataset numbers the categories in the order of the file.
        categories = list(self.coco.cats.values())
        names = [category['name'] for category in categories]
        classes = list(dataset_meta['classes'])
        if names != classes:
            raise ValueError(
                f'{self.ann_file} has {len(names)} categories, {first_names(names)}, but '
                f'the data set has {len(classes)} classes, {first_names(classes)}: set '
                'metainfo.classes of the data set to the categories, in the same order'
            )
        self._dataset_meta = dataset_meta
        self.is_thing = np.array([category['isthing'] == 1 for category in categories])
        self.category_ids = [category['id'] for category in categories]
        self.label_of = {id_: label for label, id_ in enumerate(self.category_ids)}

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Count the matches of DetDataSamples, as dicts.

        They have ``img_id`` and ``pred_panoptic_seg.sem_seg``, (1, H, W): label + 1000 *
        instance.

        Raises:
            ValueError: An image is not in ``ann_file``, or its prediction has another
                size than its truth.
        """
        for sample in data_samples:
            image_id = sample['img_id']
            if image_id not in self.coco.imgs:
                raise ValueError(
                    f'{self.ann_file} has no image {image_id!r}: give the ann_file of the '
                    'data set that is evaluated'
                )
            file_name = self.coco.imgs[image_id]['segm_file']
            prediction = PanopticPrediction.decode(
                sample['pred_panoptic_seg'], len(self.category_ids)
            )
            stats = annotation = None
            if not self.format_only:
                stats = self._count_matches(image_id, file_name, prediction)
            if self.outfile_prefix is not None:
                folder = f'{self.outfile_prefix}.panoptic'
                write_segment_ids(prediction.ids, osp.join(folder, file_name))
                segments = [
                    dict(id=id_, category_id=self.category_ids[label])
                    for id_, label in prediction.labels.items()
                ]
                annotation = coco_panoptic(image_id, file_name, segments)
            self.results.append((stats, annotation))

    def _count_matches(
        self, image_id: int, file_name: str, prediction: PanopticPrediction
    ) -> np.ndarray:
        path = osp.join(self.seg_prefix, file_name)
        truth_ids = read_segment_ids(path, self.backend_args)
        truth = [
            dict(segment, label=self.label_of[segment['category_id']])
            for segment in self.coco.imgToAnns.get(image_id, [])
        ]
        try:
            return count_matches(
                truth_ids, truth, prediction.ids, prediction.labels, len(self.label_of)
            )
        except ValueError as error:
            raise ValueError(f'{path}: {error}') from error

    def compute_metrics(
        self, results: Sequence[tuple[np.ndarray | None, dict | None]]
    ) -> dict[str, float]:
        """Average over the images of all processes, and write the JSON.

        Returns:
            The values by name; empty with ``format_only``.
        """
        all_stats, annotations = zip(*results)
        logger = MMLogger.get_current_instance()
        if self.outfile_prefix is not None:
            path = f'{self.outfile_prefix}.panoptic.json'
            dump(dict(annotations=list(annotations)), path)
            logger.info(f'Predictions written to {path} and {path[:-5]}/')
        if self.format_only:
            return {}
        stats = np.sum(all_stats, axis=0)
        averages = dict(
            All=average(stats),
            Things=average(stats[self.is_thing]),
            Stuff=average(stats[~self.is_thing]),
        )
        classwise = None
        if self.classwise:
            classes = self.dataset_meta['classes']
            classwise = {name: average(stats[[i]]) for i, name in enumerate(classes)}
        print_panoptic_table(averages, classwise, logger)
        return parse_pq_results(averages)
