"""How a block starts: the options `init` and `zeros_init`."""

import pytest
import torch
from torch import nn

from mmgcnl.layers import POSITION_FORMS, GCNonLocal2d
from mmgcnl.layers.gc_non_local import INITS


def distance(weights: torch.Tensor) -> float:
    """Mean cosine distance between the queries' attention, mean over heads."""
    unit = nn.functional.normalize(weights.double(), dim=-1)
    return ((1 - unit.mean(-2).square().sum(-1)) / 2).mean().item()


@pytest.mark.parametrize(
    'init, std',
    [
        # Xavier: uniform of variance 2 / (fan_in + fan_out). PyTorch: of 1 / (3 fan_in).
        ('xavier', lambda fan_in, fan_out: (2 / (fan_in + fan_out)) ** 0.5),
        ('torch', lambda fan_in, fan_out: (1 / (3 * fan_in)) ** 0.5),
        ('normal', lambda fan_in, fan_out: 0.01),
    ],
)
def test_layers_are_drawn_as_init_says(init, std):
    torch.manual_seed(0)
    block = GCNonLocal2d(256, init=init, zeros_init=False)
    for conv in (block.query, block.key, block.value, block.out):
        fan_out, fan_in = conv.weight.shape[:2]
        assert conv.weight.std().item() == pytest.approx(std(fan_in, fan_out), rel=0.03)
        biases = conv.bias.abs().max().item()
        assert biases == 0 or init == 'torch' and biases <= fan_in**-0.5
    for axis in (block.position.y, block.position.x):
        fan_out, fan_in = axis.weight.shape
        assert axis.weight.std().item() == pytest.approx(std(fan_in, fan_out), rel=0.05)
    context = block.context.fc
    assert context.weight.std().item() == pytest.approx(0.5 * 256**-0.5, rel=0.05)
    assert torch.equal(context.bias, torch.ones_like(context.bias))


def test_norm_starts_as_zeros_init_says():
    for init in INITS:
        zero = GCNonLocal2d(64, init=init, norm_layer=nn.BatchNorm2d).norm
        assert not zero.weight.any() and not zero.bias.any()
        norm = GCNonLocal2d(64, init=init, norm_layer=nn.BatchNorm2d, zeros_init=False).norm
        assert not norm.bias.any()
        if init == 'normal':  # as mmcv's NonLocal2d
            assert 0.005 < norm.weight.std() < 0.02
        else:
            assert torch.equal(norm.weight, torch.ones(64))


@pytest.mark.parametrize('form', [None, *POSITION_FORMS])
def test_attention_of_a_fresh_block_depends_on_the_query(form):
    """The default start does, whatever the priors; 'normal' is uniform."""
    torch.manual_seed(0)
    x = torch.randn(1, 128, 12, 10).relu()  # as behind a convolution, a norm and ReLU
    found = {
        init: distance(GCNonLocal2d(128, position=form, init=init).attention_weights(x))
        for init in INITS
    }
    assert found['xavier'] > 0.02
    assert found['torch'] > 0.001
    assert found['normal'] < 0.001
    default = GCNonLocal2d(128, position=form)
    assert default.init == 'xavier'
