"""COCO's panoptic annotations, read without panopticapi."""

from __future__ import annotations

from typing import Any

import mmcv
import numpy as np
from mmdet.datasets.transforms import LoadAnnotations, LoadPanopticAnnotations
from mmdet.registry import TRANSFORMS
from mmengine.fileio import get


def rgb2id(rgb: np.ndarray) -> np.ndarray:
    """Segment ids (H, W), int32, of an RGB image (H, W, 3): R + 256 G + 65536 B."""
    red, green, blue = np.moveaxis(rgb.astype(np.int32), -1, 0)
    return red + (green << 8) + (blue << 16)


def id2rgb(ids: np.ndarray) -> np.ndarray:
    """The inverse of :func:`rgb2id`: (H, W) below 2^24 to (H, W, 3), uint8."""
    return np.stack([ids & 255, ids >> 8 & 255, ids >> 16 & 255], -1).astype(np.uint8)


def read_segment_ids(path: str, backend_args: dict | None = None) -> np.ndarray:
    """Segment ids (H, W), int32, of a panoptic PNG.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no image.
    """
    bgr = mmcv.imfrombytes(get(path, backend_args), flag='color')
    if bgr is None:
        raise ValueError(f'{path} does not decode as an image')
    return rgb2id(bgr[..., ::-1])


@TRANSFORMS.register_module()
class LoadPanopticSegments(LoadPanopticAnnotations):
    """mmdet's LoadPanopticAnnotations, without panopticapi.

    Args:
        **kwargs: See LoadPanopticAnnotations.
    """

    def __init__(
        self, with_mask: bool = True, with_seg: bool = True, **kwargs: Any
    ) -> None:
        # Not the parent's: beyond this it imports panopticapi, for this one function.
        LoadAnnotations.__init__(self, with_mask=with_mask, with_seg=with_seg, **kwargs)
        self.rgb2id = rgb2id
