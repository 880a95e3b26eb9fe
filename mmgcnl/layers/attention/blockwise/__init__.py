"""Attention on any device, in memory proportional to the number of positions."""

from .operator import blockwise_attention

__all__ = ['blockwise_attention']
