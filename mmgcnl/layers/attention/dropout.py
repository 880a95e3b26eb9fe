"""Which attention weights dropout keeps.

Shape shorthand: B images, n heads, (H, W) the query grid, (h, w) the key grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# Constants of the streams of the queries' and the keys' numbers: the golden ratio and the
# square root of two, as 32-bit fractions.
_QUERY_STREAM, _KEY_STREAM = 0x9E3779B9, 0x6A09E667


def _signed(number: int) -> int:
    """The int32 with the bits of ``number``."""
    return (number + 2**31) % 2**32 - 2**31


def _mix(x: Tensor) -> Tensor:
    """MurmurHash3's 32-bit finaliser (fmix32, Appleby): each bit depends on all bits."""
    # The shift of an int32 copies the sign; the mask removes the copies.
    x = (x ^ ((x >> 16) & 0xFFFF)) * _signed(0x85EBCA6B)
    x = (x ^ ((x >> 13) & 0x7FFFF)) * _signed(0xC2B2AE35)
    return x ^ ((x >> 16) & 0xFFFF)


def _odd_numbers(shape: Sequence[int], seed: Tensor, stream: int) -> Tensor:
    """Odd int32 numbers, one per index, as a hash of seed, stream and index."""
    low = _mix((seed & 0xFFFFFFFF).to(torch.int32) ^ _signed(stream))
    high = _mix((seed >> 32).to(torch.int32) + low)
    index = torch.arange(math.prod(shape), dtype=torch.int32, device=seed.device)
    return (_mix(_mix(index ^ low) ^ high) | 1).view(*shape)


class KeepMask:
    """A function of a seed and of the indices of queries and keys, and of nothing else.

    The backward pass therefore needs no mask from the forward pass, and all
    implementations drop the same weights, in whatever order they compute them. Everything
    is computed on ``device`` from the seed, without waiting for the device.

    Every query and every key of a head gets an odd number of 32 bits, a hash of the seed
    and the index. Their product modulo 2^32 decides on the weight between them. With
    random numbers, the products of a query with all keys are independent, and so are those
    of a key; any few others are independent to within 2^-31: universal hashing
    (Dietzfelbinger et al., 1997) where the keys are random, too.

    Args:
        dropout_p: Probability with which a weight is dropped.
        seed: A whole number, as a tensor of one element.
        size: B, n, H and W.
        key_size: h and w.
        device: Where the masks are computed.

    Attributes:
        queries: (B, n, H, W), int32, the queries' numbers.
        keys: (B, n, h, w), int32, the keys' numbers.
        threshold: Smallest product that keeps a weight.
        scale: The inverse of the share that is kept.
    """

    def __init__(
        self,
        dropout_p: float,
        seed: Tensor,
        size: Sequence[int],
        key_size: Sequence[int],
        device: torch.device,
    ) -> None:
        seed = seed.to(device)
        self.queries = _odd_numbers(size, seed, _QUERY_STREAM)
        self.keys = _odd_numbers((*size[:2], *key_size), seed, _KEY_STREAM)
        dropped = min(round(dropout_p * 2**32), 2**32 - 1)
        self.threshold = dropped - 2**31
        self.scale = 2**32 / (2**32 - dropped)

    def __call__(self, queries: Tensor, keys: Tensor, out: Tensor | None = None) -> Tensor:
        """One for each weight that is kept, zero for the others: whole numbers (..., T, K).

        Args:
            queries: (..., T), some of the queries' numbers.
            keys: (..., K), some of the keys' numbers.
            out: Where to put them: int32 or int64. Default: a new int32 tensor.
        """
        products = torch.mul(queries.unsqueeze(-1), keys.unsqueeze(-2), out=out)
        return products.ge_(self.threshold)
