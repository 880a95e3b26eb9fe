"""One attention function, several exact implementations of the same mathematics.

``dense`` is the reference: short, and with all weights in memory. ``blockwise`` runs
anywhere in memory that grows with the number of positions. ``triton`` is one fused kernel
for NVIDIA GPUs.
"""

from .dense import attention_weights
from .dispatch import (
    IMPLEMENTATION_VARIABLE,
    IMPLEMENTATIONS,
    attention,
    choose_implementation,
)
from .logits import Logits, Position

__all__ = [
    'IMPLEMENTATIONS',
    'IMPLEMENTATION_VARIABLE',
    'Logits',
    'Position',
    'attention',
    'attention_weights',
    'choose_implementation',
]
