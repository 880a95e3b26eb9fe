"""PASCAL VOC's classes in a plain folder layout."""

from __future__ import annotations

from mmseg.datasets import BaseSegDataset, PascalVOCDataset
from mmseg.registry import DATASETS


@DATASETS.register_module()
class VOCFoldersDataset(BaseSegDataset):
    """Label maps with VOC's ids, without VOC's lists of images::

        images/{train,val}/NAME.jpg
        annotations/{train,val}/NAME.png  values 0 to 20, 255 for no class

    With some of the classes as ``metainfo=dict(classes=[...])``, pixels of the others get
    the label 255, which the heads and metrics of mmseg ignore.

    Args:
        **kwargs: See mmseg's BaseSegDataset.
    """

    METAINFO = PascalVOCDataset.METAINFO
