"""How a block starts: the option `init`."""

import pytest
import torch
from torch import nn

from mmgcnl.layers import GCNonLocal2d


@pytest.mark.parametrize('init', ['gaussian', '', None, 0])
def test_unknown_init_is_named(init):
    with pytest.raises(ValueError, match=r"init=.*: give one of 'normal', 'xavier'"):
        GCNonLocal2d(16, init=init)


@pytest.mark.parametrize('norm_layer', [None, nn.BatchNorm2d])
@pytest.mark.parametrize('init', ['xavier', 'normal'])
def test_fresh_block_is_the_identity(init, norm_layer):
    torch.manual_seed(0)
    block = GCNonLocal2d(16, init=init, norm_layer=norm_layer)
    x = torch.randn(2, 16, 5, 6)
    assert torch.equal(block(x), x)


def test_weights_do_not_depend_on_init():
    """A state dict of either loads into the other and gives the same outputs."""
    torch.manual_seed(0)
    normal = GCNonLocal2d(16, init='normal', attn_drop_rate=0.0)
    xavier = GCNonLocal2d(16, init='xavier', attn_drop_rate=0.0)
    for parameter in normal.parameters():
        nn.init.normal_(parameter)
    xavier.load_state_dict(normal.state_dict())
    x = torch.randn(2, 16, 5, 6)
    assert torch.equal(xavier(x), normal(x))
    assert not torch.allclose(normal(x), x)


def test_position_starts_as_the_other_layers_of_the_logits():
    torch.manual_seed(0)
    block = GCNonLocal2d(256, init='normal')
    for axis in (block.position.y, block.position.x):
        assert axis.weight.std().item() == pytest.approx(0.01, rel=0.05)
    context = block.context.fc
    assert context.weight.std().item() == pytest.approx(0.5 * 256**-0.5, rel=0.05)
    assert torch.equal(context.bias, torch.ones_like(context.bias))
