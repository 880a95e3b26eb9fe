"""Memory that shows what a kernel writes beyond its outputs, or does not write."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from . import operator

#: Bytes of padding on either side of a tensor: more than a tile in all its channels.
PADDING = 2**20


class GuardedMemory:
    """Makes tensors of NaN, each between two pieces of padding."""

    def __init__(self) -> None:
        self._padding: list[Tensor] = []

    def empty(
        self, like: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None
    ) -> Tensor:
        """A tensor on the device of ``like``; see :func:`.operator.empty_output`."""
        dtype = dtype or like.dtype
        end = PADDING + math.prod(shape) * dtype.itemsize
        # All bits set are NaN in every floating dtype.
        memory = like.new_full((end + PADDING,), 255, dtype=torch.uint8)
        self._padding += [memory[:PADDING], memory[end:]]
        return memory[PADDING:end].view(dtype).view(*shape)

    def check(self) -> None:
        """Compare the padding with what it was.

        Raises:
            RuntimeError: It was written to.
        """
        if not all(bool((padding == 255).all()) for padding in self._padding):
            raise RuntimeError('they write beyond their outputs')


@contextmanager
def guarded_outputs() -> Iterator[GuardedMemory]:
    """Let the operators take their outputs from guarded memory."""
    memory, before = GuardedMemory(), operator.empty_output
    operator.empty_output = memory.empty
    try:
        yield memory
    finally:
        operator.empty_output = before
