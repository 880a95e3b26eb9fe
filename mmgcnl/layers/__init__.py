"""The block and its parts in plain PyTorch: nothing here imports an mm* package."""

from .attention import attention, attention_weights
from .context import GlobalContext
from .gc_non_local import GCNonLocal2d
from .position import POSITION_FORMS, PositionTerm

__all__ = [
    'POSITION_FORMS',
    'GCNonLocal2d',
    'GlobalContext',
    'PositionTerm',
    'attention',
    'attention_weights',
]
