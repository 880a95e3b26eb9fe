"""Adapters that register the block with mmengine, mmdet and mmseg."""

from mmgcnl.utils.libraries import usable

from .blocks import GCNonLocal2dAdapter, build_se_refine
from .ebfpn import EBFPN
from .efficientnet_lite import EfficientNetLite0
from .probe_backbone import ProbeBackbone

__all__ = [
    'EBFPN',
    'EfficientNetLite0',
    'GCNonLocal2dAdapter',
    'ProbeBackbone',
    'build_se_refine',
]

if usable('mmseg'):
    from .gcnl_head import GCNLHead  # noqa: F401

    __all__ += ['GCNLHead']
