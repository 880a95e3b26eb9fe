"""Adapters of the block into mmengine's, mmdet's and mmseg's registries."""

from importlib.util import find_spec

from .blocks import GCNonLocal2d, SEBlock
from .conv_net import ConvNet
from .ebfpn import EBFPN

__all__ = ['ConvNet', 'EBFPN', 'GCNonLocal2d', 'SEBlock']

if find_spec('mmseg'):
    from .gcnl_head import GCNLHead  # noqa: F401

    __all__ += ['GCNLHead']
