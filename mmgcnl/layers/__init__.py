"""The block, its parts and the neck in plain PyTorch, without any mm* package."""

import warnings
from typing import Any

from .attention import (
    IMPLEMENTATIONS,
    AttentionInputs,
    Position,
    attention,
    attention_weights,
    choose_implementation,
)
from .context import GlobalContext
from .ebfpn import EBFPN
from .gc_non_local import GCNonLocal2d
from .position import POSITION_FORMS, PositionTerm

__all__ = [
    'EBFPN',
    'IMPLEMENTATIONS',
    'POSITION_FORMS',
    'AttentionInputs',
    'GCNonLocal2d',
    'GlobalContext',
    'Position',
    'PositionTerm',
    'attention',
    'attention_weights',
    'choose_implementation',
]

#: Former public names and their successors. They go with the next version.
_RENAMED = {'Logits': 'AttentionInputs'}


def __getattr__(name: str) -> Any:
    if name in _RENAMED:
        successor = _RENAMED[name]
        warnings.warn(
            f'mmgcnl.layers.{name} is deprecated and will be removed in the next '
            f'version: use mmgcnl.layers.{successor}',
            DeprecationWarning,
            stacklevel=2,
        )
        return globals()[successor]
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
