"""Blocks with random weights."""

from typing import Any

from torch import nn

from mmgcnl.layers import GCNonLocal2d


def randomize(module: nn.Module, std: float = 0.5) -> nn.Module:
    """Random values everywhere: a fresh block is the identity and shows nothing."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=std)
    return module


def make_block(in_channels: int = 16, **kwargs: Any) -> GCNonLocal2d:
    return randomize(GCNonLocal2d(in_channels, **kwargs)).double().eval()
