"""The maps of a pyramid in other sizes."""

import torch
import torch.nn.functional as F

from mmgcnl.layers import resize


def test_resizing_by_indices_is_exact():
    sizes = [*range(1, 40), 50, 64, 75, 100, 167, 200, 333]
    for n in sizes:
        x = torch.randn(1, 1, n, 1)
        index = torch.arange(n, dtype=torch.float32).view(1, 1, n, 1)
        for size in sizes:
            pooled = resize._max_of_windows(x, 2, size)
            assert torch.equal(pooled, F.adaptive_max_pool2d(x, (size, 1)))
            nearest = resize._nearest(index, 2, size)
            assert torch.equal(nearest, F.interpolate(index, (size, 1), mode='nearest'))
