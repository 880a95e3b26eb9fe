"""The block, its parts and the neck in plain PyTorch, without any mm* package."""

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
