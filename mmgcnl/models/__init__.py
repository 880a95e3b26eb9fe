"""Adapters that register the block with mmengine, mmdet and mmseg."""

from importlib.util import find_spec

from mmgcnl.utils.deprecation import moved_names

from .blocks import GCNonLocal2dAdapter, SEBlock
from .conv_net import ConvNet
from .ebfpn import EBFPN

__all__ = ['ConvNet', 'EBFPN', 'GCNonLocal2dAdapter', 'SEBlock']

if find_spec('mmseg'):
    from .gcnl_head import GCNLHead  # noqa: F401

    __all__ += ['GCNLHead']

__getattr__ = moved_names(__name__, {'GCNonLocal2d': 'mmgcnl.models.GCNonLocal2dAdapter'})
