"""Panoptic segments: mmdet's ids, segments numbered from 1, and COCO's PNGs.

mmdet gives each pixel ``label + INSTANCE_OFFSET * instance``. COCO's PNGs store the id of
a segment as a color, 0 being void. Nothing here needs panopticapi.

Shape shorthand: H, W: pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mmcv
import numpy as np
import torch
from mmengine.fileio import get
from mmengine.structures import BaseDataElement, PixelData

#: Id of the pixels that belong to no segment.
VOID = 0


def rgb2id(rgb: np.ndarray) -> np.ndarray:
    """Convert COCO's colors (H, W, 3) to segment ids (H, W), R + 256 G + 65536 B, int32."""
    red, green, blue = np.moveaxis(rgb.astype(np.int32), -1, 0)
    return red + (green << 8) + (blue << 16)


def id2rgb(ids: np.ndarray) -> np.ndarray:
    """Convert segment ids (H, W), below 2^24, to COCO's colors (H, W, 3), uint8."""
    return np.stack([ids & 255, ids >> 8 & 255, ids >> 16 & 255], -1).astype(np.uint8)


def read_segment_ids(path: str, backend_args: dict | None = None) -> np.ndarray:
    """Read the segment ids (H, W), int32, of a panoptic PNG.

    Args:
        path: Path or URL of the PNG.
        backend_args: mmengine's file backend. Default: chosen by the path.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file does not decode as an image.
    """
    bgr = mmcv.imfrombytes(get(path, backend_args), flag='color')
    if bgr is None:
        raise ValueError(f'{path} does not decode as an image')
    return rgb2id(bgr[..., ::-1])


def write_segment_ids(ids: np.ndarray, path: str) -> None:
    """Write segment ids (H, W) as a panoptic PNG, together with its folder."""
    mmcv.imwrite(np.ascontiguousarray(id2rgb(ids)[..., ::-1]), path)


@dataclass(frozen=True)
class PanopticPrediction:
    """The predicted segments of an image, numbered from 1 in the order of mmdet's ids.

    Attributes:
        ids: Segment of each pixel (H, W), int32; 0 for none.
        labels: Class of each segment, from 0, by its number.
        areas: Pixels of each segment, by its number.
    """

    ids: np.ndarray
    labels: dict[int, int]
    areas: dict[int, int]

    @classmethod
    def decode(
        cls, prediction: BaseDataElement | Mapping[str, Any], num_classes: int
    ) -> PanopticPrediction:
        """Decode ``pred_panoptic_seg`` of a data sample, or of one turned into a dict.

        Args:
            prediction: ``sem_seg`` is (1, H, W), label + INSTANCE_OFFSET * instance.
                Pixels with the label ``num_classes`` or, if given, ``ignore_index``
                belong to no segment, as in mmdet's CocoPanopticMetric.
            num_classes: Number of classes, things and stuff.
        """
        from mmdet.evaluation import INSTANCE_OFFSET

        (sem_seg,) = prediction.get('sem_seg', ())
        encoded = torch.as_tensor(sem_seg).cpu().numpy()
        values, inverse, counts = np.unique(
            encoded, return_inverse=True, return_counts=True
        )
        void = (num_classes, prediction.get('ignore_index', num_classes))
        numbers = np.full(len(values), VOID, np.int32)
        labels: dict[int, int] = {}
        areas: dict[int, int] = {}
        for index, label in enumerate((values % INSTANCE_OFFSET).tolist()):
            if label not in void:
                numbers[index] = number = len(labels) + 1
                labels[number] = label
                areas[number] = int(counts[index])
        return cls(numbers[inverse].reshape(encoded.shape), labels, areas)

    def segments_info(self, num_things: int) -> list[dict[str, int]]:
        """List the segments as COCO does, ``category_id`` being the class, from 0.

        Args:
            num_things: Number of classes that are things; these come first.
        """
        return [
            dict(
                id=number,
                category_id=label,
                isthing=int(label < num_things),
                area=self.areas[number],
            )
            for number, label in self.labels.items()
        ]


def encode_panoptic_truth(truth: BaseDataElement, num_classes: int) -> PixelData:
    """Encode the ground truth of a data sample as mmdet encodes a panoptic prediction.

    Args:
        truth: ``gt_sem_seg.sem_seg`` is (1, H, W), 255 for void; ``gt_instances`` has
            masks and labels.
        num_classes: Number of classes, things and stuff.

    Returns:
        ``sem_seg``, (1, H, W), int64: what :meth:`PanopticPrediction.decode` reads.
    """
    from mmdet.evaluation import INSTANCE_OFFSET

    ids = np.asarray(truth.gt_sem_seg.sem_seg[0]).astype(np.int64)
    ids[ids == 255] = num_classes
    instances = truth.gt_instances
    for i, mask in enumerate(instances.masks.to_ndarray().astype(bool), 1):
        ids[mask] = int(instances.labels[i - 1]) + i * INSTANCE_OFFSET
    return PixelData(sem_seg=torch.from_numpy(ids)[None])
