"""One attention function, several exact implementations of the same mathematics.

``dense`` is the reference: short, with all weights in memory at once. ``blockwise`` runs
on any device in memory proportional to the number of positions. ``triton`` is a fused
kernel for NVIDIA GPUs. ``row_wise`` is a loop over the rows of the map that
can be exported.
"""

from .dispatch import (
    IMPLEMENTATION_VARIABLE,
    IMPLEMENTATIONS,
    attention,
    choose_implementation,
)
from .inputs import AttentionInputs, Position
from .reference import attention_weights

__all__ = [
    'IMPLEMENTATIONS',
    'IMPLEMENTATION_VARIABLE',
    'AttentionInputs',
    'Position',
    'attention',
    'attention_weights',
    'choose_implementation',
]
