"""The files that inference writes: overlays, maps, and COCO's JSON.

Change here what ``tools/infer.py`` writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
from mmengine.fileio import dump

from mmgcnl.structures import (
    InstancePrediction,
    PanopticPrediction,
    Prediction,
    SemanticPrediction,
    coco_categories,
    coco_instances,
    coco_panoptic,
    write_labels,
    write_segment_ids,
)


class ResultWriter:
    """Writes the results of images into a folder::

        overlays/NAME.png               the prediction drawn over the image
        labels/NAME.png                 semantic: the class of each pixel, from 0
        instances.json                  instances, in COCO's format, with the scores
        panoptic/NAME.png, panoptic.json  panoptic: the segments, in COCO's format

    Args:
        out_dir: The folder.
        dataset_meta: ``classes`` and, of panoptic networks, ``thing_classes``.
    """

    def __init__(self, out_dir: str | Path, dataset_meta: Mapping[str, Any]) -> None:
        self.out_dir = Path(out_dir)
        self.classes = dataset_meta['classes']
        self.things = dataset_meta.get('thing_classes', self.classes)
        self.images: list[dict] = []
        self.annotations: list[dict] = []
        self.kind: str | None = None  # of the JSON

    def add(
        self,
        name: str,
        size: tuple[int, int],
        prediction: Prediction,
        overlay: np.ndarray,
    ) -> dict[str, str]:
        """Write an image's overlay and map, and keep its annotations for the JSON.

        Args:
            name: Path of the image, or a name for it.
            size: (H, W) of the image.
            prediction: Its prediction.
            overlay: (H, W, 3), RGB, uint8.

        Returns:
            ``sem_seg_path`` or ``panoptic_seg_path`` of the map; empty for instances.
        """
        file = f'{Path(name).stem}.png'
        mmcv.imwrite(overlay[..., ::-1], str(self.out_dir / 'overlays' / file))
        image_id = len(self.images) + 1
        height, width = size
        self.images.append(
            dict(id=image_id, file_name=Path(name).name, height=height, width=width)
        )
        if isinstance(prediction, SemanticPrediction):
            path = str(self.out_dir / 'labels' / file)
            write_labels(prediction.labels, path, len(self.classes))
            return dict(sem_seg_path=path)
        if isinstance(prediction, InstancePrediction):
            self.kind = 'instances'
            first_id = len(self.annotations) + 1
            self.annotations += coco_instances(prediction, image_id, first_id)
            return {}
        assert isinstance(prediction, PanopticPrediction)
        self.kind = 'panoptic'
        path = str(self.out_dir / 'panoptic' / file)
        write_segment_ids(prediction.ids, path)
        segments = [
            dict(segment, category_id=segment['category_id'] + 1)
            for segment in prediction.segments_info(len(self.things))
        ]
        self.annotations.append(coco_panoptic(image_id, file, segments))
        return dict(panoptic_seg_path=path)

    def close(self) -> None:
        """Write instances.json or panoptic.json, if there is something to put in."""
        if self.kind is None:
            return
        content = dict(
            images=self.images,
            annotations=self.annotations,
            categories=coco_categories(self.classes, self.things),
        )
        dump(content, str(self.out_dir / f'{self.kind}.json'))
