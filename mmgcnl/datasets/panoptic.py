"""Loading COCO's panoptic annotations without panopticapi."""

from __future__ import annotations

from typing import Any

from mmdet.datasets.transforms import LoadAnnotations, LoadPanopticAnnotations
from mmdet.registry import TRANSFORMS

from mmgcnl.structures import rgb2id


@TRANSFORMS.register_module()
class LoadPanopticSegments(LoadPanopticAnnotations):
    """mmdet's LoadPanopticAnnotations, which needs panopticapi, without it.

    Args:
        with_mask: Whether to load the masks of the things.
        with_seg: Whether to load the semantic map.
        **kwargs: See mmdet's LoadPanopticAnnotations.
    """

    def __init__(
        self, with_mask: bool = True, with_seg: bool = True, **kwargs: Any
    ) -> None:
        # The parent's __init__ does the same and imports panopticapi's rgb2id.
        LoadAnnotations.__init__(self, with_mask=with_mask, with_seg=with_seg, **kwargs)
        self.rgb2id = rgb2id
