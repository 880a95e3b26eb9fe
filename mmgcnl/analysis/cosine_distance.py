"""How much a block's features and attention differ between positions (Tables 3, 4).

Shape shorthand: B images, n heads, N query positions, M key positions.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmgcnl.layers import GCNonLocal2d


def mean_cosine_distance(vectors: Tensor) -> Tensor:
    """Mean of (1 - cos) / 2 over all N x N pairs of vectors, in O(N d).

    The paper's avg_dist (supplement, footnote 1). The mean of all cosines is the squared
    length of the mean unit vector. A zero vector counts as orthogonal to every other.

    Args:
        vectors: (..., N, d).

    Returns:
        (...) in float64, between 0 (all alike) and 0.5 (nothing in common on average).
    """
    unit = F.normalize(vectors.double(), dim=-1)
    return (1 - unit.mean(dim=-2).square().sum(dim=-1)) / 2


class DistanceRecorder:
    """Measures the distances of a block on every forward pass while it is attached.

    Used as a context manager::

        with DistanceRecorder(block) as recorder:
            model.test_step(data)
        recorder.mean()  # {'input': ..., 'output': ..., 'attention': ...}

    'output' is what the block adds to its input. 'attention' is averaged over heads: the
    paper does not say how it treats them.
    """

    def __init__(self, block: GCNonLocal2d) -> None:
        self.block = block
        self.images: dict[str, list[Tensor]] = dict(input=[], output=[], attention=[])

    def __enter__(self) -> DistanceRecorder:
        self._handle = self.block.register_forward_hook(self._record)
        return self

    def __exit__(self, *error: Any) -> None:
        self._handle.remove()

    @torch.no_grad()
    def _record(self, block: GCNonLocal2d, args: tuple[Tensor], output: Tensor) -> None:
        (x,) = args
        for name, features in (('input', x), ('output', output - x)):
            vectors = features.flatten(2).transpose(1, 2)
            self.images[name].append(mean_cosine_distance(vectors))
        attention = mean_cosine_distance(block.attention_weights(x))
        self.images['attention'].append(attention.mean(dim=1))

    def mean(self) -> dict[str, float]:
        """Each distance averaged over the images seen."""
        return {
            name: torch.cat(values).mean().item() for name, values in self.images.items()
        }
