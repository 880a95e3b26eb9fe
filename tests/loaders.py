"""A loader of the user's own, for images that no decoder of mmcv takes."""

from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform
from mmengine.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadArray(BaseTransform):
    """Loads an .npy file, (H, W, C)."""

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        image = np.load(results['img_path'])
        return {
            **results,
            'img': image,
            'img_shape': image.shape[:2],
            'ori_shape': image.shape[:2],
        }
