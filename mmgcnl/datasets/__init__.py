"""Data sets that mmseg and mmdet do not have, and checks of any data set."""

from mmgcnl.utils.libraries import usable

from .loading import DataError, build_dataloader, check_dataset

__all__ = ['DataError', 'build_dataloader', 'check_dataset']

if usable('mmseg'):
    from .camvid import CamVidDataset  # noqa: F401
    from .msrc21 import MSRC21Dataset  # noqa: F401
    from .probe import ProbeDataset  # noqa: F401
    from .voc import VOCFoldersDataset  # noqa: F401

    __all__ += ['CamVidDataset', 'MSRC21Dataset', 'ProbeDataset', 'VOCFoldersDataset']
if usable('mmdet'):
    from .panoptic import LoadPanopticSegments  # noqa: F401

    __all__ += ['LoadPanopticSegments']
