"""The position term alone."""

import pytest
import torch

from mmgcnl.layers import POSITION_FORMS
from tests.test_layers.blocks import make_block


@pytest.mark.parametrize('position', POSITION_FORMS)
def test_shift_of_both_grids(position):
    """Where the grid starts must not matter, except to the absolute sinusoid.

    Absolute raw coordinates move all logits of a query alike, which softmax drops.
    """
    block = make_block(16, reduction=1, num_heads=2, position=position)
    query = torch.randn(1, 2, 3, 4, 8, dtype=torch.float64)
    y, x = torch.arange(3.0).double(), torch.arange(4.0).double()

    def attention(shift):
        grid = (y + shift, x + 2 * shift)
        rows, columns = block.position(query, grid).tables()
        return (rows.unsqueeze(-1) + columns.unsqueeze(-2)).flatten(-2).softmax(-1)

    unchanged = torch.allclose(attention(0), attention(5), atol=1e-9)
    assert unchanged == (not position.startswith('absolute_sinusoid'))
