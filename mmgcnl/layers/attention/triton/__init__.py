"""Attention as one fused kernel on NVIDIA GPUs, and whether it may be used."""

from .operator import triton_attention
from .validation import why_unsupported

__all__ = ['triton_attention', 'why_unsupported']
