"""Which attention weights dropout keeps.

Shape shorthand: B images, n heads, (H, W) the query grid, (h, w) the key grid.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class KeepMask:
    """A function of a seed and of the indices of queries and keys, and of nothing else.

    So the backward pass needs no mask from the forward pass, and all implementations drop
    the same weights, in whatever order they come to them.

    Every query and every key of a head gets a random odd number of 32 bits. Their product
    modulo 2^32 decides on the weight between them. The products of a query with all keys
    are independent, and so are those of a key; of all others, any few are to within
    2^-31: universal hashing (Dietzfelbinger et al., 1997) with the keys random, too.

    Args:
        dropout_p: Probability with which a weight is dropped.
        seed: A whole number, as a tensor of one element.
        size: B, n, H and W.
        key_size: h and w.
        device: Where the masks are made.

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
        generator = torch.Generator().manual_seed(int(seed))

        def odd_numbers(height: int, width: int) -> Tensor:
            shape = *size[:2], height, width
            numbers = torch.randint(
                -(2**31), 2**31, shape, dtype=torch.int32, generator=generator
            )
            return (numbers | 1).to(device)

        self.queries = odd_numbers(*size[2:])
        self.keys = odd_numbers(*key_size)
        dropped = min(round(dropout_p * 2**32), 2**32 - 1)
        self.threshold = dropped - 2**31
        self.scale = 2**32 / (2**32 - dropped)

    def __call__(self, queries: Tensor, keys: Tensor, out: Tensor | None = None) -> Tensor:
        """One for each weight that is kept, zero for the others: int32 (..., T, K).

        Args:
            queries: (..., T), some of the queries' numbers.
            keys: (..., K), some of the keys' numbers.
            out: Where to put it.
        """
        products = torch.mul(queries.unsqueeze(-1), keys.unsqueeze(-2), out=out)
        return products.ge_(self.threshold)
