"""The block and its parts in plain PyTorch: nothing here imports an mm* package."""

from .attention import (
    IMPLEMENTATIONS,
    AttentionInputs,
    Position,
    attention,
    attention_weights,
    choose_implementation,
)
from .context import GlobalContext
from .gc_non_local import GCNonLocal2d
from .position import POSITION_FORMS, PositionTerm

__all__ = [
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
