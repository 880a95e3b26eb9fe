"""MSRC-21, natural scenes of Microsoft Research Cambridge, with 21 classes.

J. Shotton et al., "TextonBoost for Image Understanding", IJCV 2009.
"""

from __future__ import annotations

from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS


@DATASETS.register_module()
class MSRC21Dataset(BaseSegDataset):
    """MSRC-21 in the layout::

        images/{train,val}/NAME.jpg
        annotations/{train,val}/NAME.png  values 0 to 20, 255 for no class

    Args:
        **kwargs: See mmseg's BaseSegDataset.
    """

    METAINFO = dict(
        classes=(
            *('building', 'grass', 'tree', 'cow', 'sheep', 'sky', 'aeroplane', 'water'),
            *('face', 'car', 'bicycle', 'flower', 'sign', 'bird', 'book', 'chair', 'road'),
            *('cat', 'dog', 'body', 'boat'),
        ),
        palette=[
            *([128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128], [0, 128, 128]),
            *([128, 128, 128], [192, 0, 0], [64, 128, 0], [192, 128, 0], [64, 0, 128]),
            *([192, 0, 128], [64, 128, 128], [192, 128, 128], [0, 64, 0], [128, 64, 0]),
            *([0, 192, 0], [128, 64, 128], [0, 192, 128], [128, 192, 128], [64, 64, 0]),
            [192, 64, 0],
        ],
    )
