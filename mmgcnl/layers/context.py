"""The global context: a weight for each channel, computed from the whole image."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn as nn
from torch import Tensor

from .precision import no_autocast


class _GlobalMaxPool(nn.Module):
    """AdaptiveMaxPool2d(1), whose gradient is deterministic on a GPU, too."""

    def forward(self, x: Tensor) -> Tensor:
        return x.amax((2, 3), keepdim=True)


_POOLS: dict[str, Callable[[], nn.Module]] = {
    'avg': lambda: nn.AdaptiveAvgPool2d(1),
    'max': _GlobalMaxPool,
}


class GlobalContext(nn.Module):
    """The diagonal matrix diag(c) between query and key, computed from the pooled input.

    Shape shorthand: B images, C input channels, E inner channels, n heads, d = E / n.

    Args:
        in_channels: C.
        embed_dims: E.
        num_heads: n.
        pool: 'avg', which the paper finds better, or 'max' (section 2.1.2).
        device: Device of the parameters.
        dtype: Dtype of the parameters.

    Raises:
        ValueError: ``pool`` has another value.
    """

    def __init__(
        self,
        in_channels: int,
        embed_dims: int,
        num_heads: int,
        pool: str = 'avg',
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(pool, str) or pool not in _POOLS:
            raise ValueError(f"context={pool!r}: give 'avg', 'max' or None")
        self.num_heads = num_heads
        self.pool = _POOLS[pool]()
        self.fc = nn.Linear(in_channels, embed_dims, device=device, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start with c near 1, that is, near attention without context."""
        nn.init.normal_(self.fc.weight, std=0.5 * self.fc.in_features**-0.5)
        nn.init.ones_(self.fc.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """c divided by a power of two, and that power of two.

        q * c overflows float16 long before attention needs a c so large. For each image
        and head, c is therefore divided by the power of two that brings it to at most one,
        but by no less than 2^-10, or a gradient in half precision would vanish.
        The division is exact, half precision then never has to hold a value larger than
        q, and the factor is applied after the inner product, which is in float32.

        Args:
            x: (B, C, H, W).

        Returns:
            c divided by the factor, (B, n, 1, 1, d), and the factor, (B, n, 1, 1, 1), both
            in float32 at least.
        """
        dtype = torch.promote_types(x.dtype, torch.float32)
        with no_autocast(x.device.type):
            pooled = self.pool(x).flatten(1).to(self.fc.weight.dtype)
            context = self.fc(pooled).to(dtype)
        context = context.unflatten(1, (self.num_heads, 1, 1, -1))
        largest = context.detach().abs().amax(dim=-1, keepdim=True)
        # By log and pow: ncnn does not know log2, nor the older ONNX exporter exp2.
        # Rounding may give another exponent, but the factor is a power of two all the same.
        exponent = (largest.clamp(min=2.0**-10).log() / math.log(2)).ceil()
        factor = torch.pow(2.0, exponent)
        return context / factor, factor
