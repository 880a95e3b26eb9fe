"""Pictures of predictions and of ground truth, drawn over their images.

Shape shorthand: H, W: pixels.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.structures import BaseDataElement
from mmengine.visualization import Visualizer

from mmgcnl.datasets.pictures import ImageReader
from mmgcnl.structures import PanopticPrediction, encode_panoptic_truth

Image = str | np.ndarray


class Overlays:
    """Draws with mmdet's or mmseg's visualizer.

    Args:
        visualizer: The library's, with ``dataset_meta`` set.
        scope: The library, 'mmdet' or 'mmseg'.
        reader: Reads the images as the model's pipeline does.
    """

    def __init__(self, visualizer: Visualizer, scope: str, reader: ImageReader) -> None:
        self.visualizer = visualizer
        self.scope = scope
        self.reader = reader

    @property
    def num_classes(self) -> int:
        """Number of the model's classes."""
        return len(self.visualizer.dataset_meta['classes'])

    def draw(
        self,
        image: Image,
        prediction: BaseDataElement,
        score_thr: float = 0.3,
        **options: Any,
    ) -> np.ndarray:
        """Draw a prediction over its image.

        Args:
            image: A path, or the array that the config's loader gives for one.
            prediction: A data sample.
            score_thr: Instances with a lower score are not drawn.
            **options: Options of the visualizer's ``add_datasample``, such as
                ``with_labels=True`` to write the names of the classes into label maps.

        Returns:
            (H, W, 3), RGB, uint8.

        Raises:
            ValueError: The image does not decode.
        """
        of_library = dict(pred_score_thr=score_thr)
        if self.scope == 'mmseg':
            of_library = dict(with_labels=False)
        options = dict(draw_gt=False) | of_library | options
        pixels = self.reader.picture(image)
        segments = prediction.get('pred_panoptic_seg')
        # mmdet's visualizer fails where there is no segment at all.
        if segments is None or PanopticPrediction.decode(segments, self.num_classes).labels:
            self.visualizer.add_datasample('', pixels, prediction, **options)
            pixels = self.visualizer.get_image()
        return pixels

    def draw_truth(self, image: Image, truth: BaseDataElement) -> np.ndarray:
        """Draw ground truth in the way that :meth:`draw` draws predictions.

        Args:
            image: As for :meth:`draw`.
            truth: A data sample with the ground truth at the image's size.
        """
        truth = copy.deepcopy(truth)
        if self.scope == 'mmseg':
            truth.pred_sem_seg = truth.gt_sem_seg
        elif 'gt_sem_seg' in truth:
            truth.pred_panoptic_seg = encode_panoptic_truth(truth, self.num_classes)
        else:
            boxes = truth.gt_instances.bboxes
            truth.gt_instances.bboxes = getattr(boxes, 'tensor', boxes)
            pixels = self.reader.picture(image)
            self.visualizer.add_datasample('', pixels, truth, draw_pred=False)
            return self.visualizer.get_image()
        return self.draw(image, truth)

    def legend(self, samples: Sequence[BaseDataElement]) -> list[tuple[str, Any]]:
        """List the classes that occur in semantic predictions or ground truth.

        Args:
            samples: Data samples.

        Returns:
            Name and RGB color of each class. Empty for detectors, whose overlays have the
            names written in them.
        """
        if self.scope != 'mmseg':
            return []
        labels: set[int] = set()
        for sample in samples:
            for key in {'pred_sem_seg', 'gt_sem_seg'} & set(sample.keys()):
                labels |= set(np.unique(sample.get(key).data).tolist())
        meta = self.visualizer.dataset_meta
        named = zip(meta['classes'], meta['palette'])
        return [entry for i, entry in enumerate(named) if i in labels]
