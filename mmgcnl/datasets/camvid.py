"""CamVid, the Cambridge-driving Labeled Video Database, with 11 classes.

G. Brostow et al., "Semantic object classes in video: A high-definition ground truth
database", Pattern Recognition Letters 2009. Classes and split are SegNet's.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS

from .loading import DataError, check_dataset, check_folders

UNLABELLED = 11
COLORS = dict(
    sky=[128, 128, 128],
    building=[128, 0, 0],
    pole=[192, 192, 128],
    road=[128, 64, 128],
    pavement=[0, 0, 192],
    tree=[128, 128, 0],
    sign=[192, 128, 128],
    fence=[64, 64, 128],
    car=[64, 0, 128],
    pedestrian=[64, 64, 0],
    bicyclist=[0, 128, 192],
)


@DATASETS.register_module()
class CamVidDataset(BaseSegDataset):
    """CamVid in the layout that tools/dataset_converters/camvid.py writes::

        images/{train,val,test}/NAME.png       or .jpg
        annotations/{train,val,test}/NAME.png  values 0 to 10, 11 for unlabelled

    Unlabelled pixels get the label 255, which the heads and metrics of mmseg ignore.

    Args:
        img_suffix: Suffix of the images. Default: '.png' if the folder has any, else
            '.jpg'.
        sequences: Only images whose file names start with one of these, for example
            ``['0001TP', '0016E5']``. Default: all images.
        **kwargs: See mmseg's BaseSegDataset.

    Raises:
        RuntimeError: A folder is missing or has no image, an image has no label map, or
            a sample is faulty (see :class:`~mmgcnl.datasets.loading.CheckedCompose`).
    """

    METAINFO = dict(classes=tuple(COLORS), palette=list(COLORS.values()))

    img_suffix: str | None

    def __init__(
        self,
        img_suffix: str | None = None,
        sequences: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        if isinstance(sequences, str):
            raise TypeError(f'sequences={sequences!r}: give a list, [{sequences!r}]')
        self.sequences = sequences
        super().__init__(img_suffix=img_suffix, **kwargs)

    @classmethod
    def get_label_map(cls, new_classes: Any = None) -> dict[int, int]:
        """Map the value of unlabelled pixels to 255, besides what mmseg maps."""
        return {**(super().get_label_map(new_classes) or {}), UNLABELLED: 255}

    def full_init(self) -> None:
        """Load the list of samples, and check it; the class says what is raised."""
        if self._fully_initialized:
            return
        check_folders(self)
        super().full_init()
        for index in range(len(self)):
            sample = self.get_data_info(index)
            labels = sample.get('seg_map_path')
            if labels is not None and not os.path.isfile(labels):
                raise DataError(
                    f'{sample["img_path"]} has no label map: no such file: {labels}'
                )
        check_dataset(self)

    def load_data_list(self) -> list[dict]:
        """List the samples, of which there must be one."""
        if self.img_suffix is None:
            names = os.listdir(self.data_prefix['img_path'])
            png = any(name.endswith('.png') for name in names)
            self.img_suffix = '.png' if png else '.jpg'
        samples = super().load_data_list()
        if not samples:
            raise DataError(
                f'no image *{self.img_suffix} in {self.data_prefix["img_path"]}'
            )
        if self.sequences is None:
            return samples
        starts = tuple(self.sequences)
        kept = [s for s in samples if os.path.basename(s['img_path']).startswith(starts)]
        if not kept:
            raise DataError(
                f'no image of the sequences {", ".join(starts)} in '
                f'{self.data_prefix["img_path"]}'
            )
        return kept
