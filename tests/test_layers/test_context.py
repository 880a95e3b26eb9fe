"""The context alone, and what it does to the attention."""

import pytest
import torch
from torch import nn

from mmgcnl.layers import GlobalContext
from tests.test_layers.blocks import make_block


def test_factored_context_is_exact():
    """Taking a power of two out of the context changes no bit of the inputs."""
    torch.manual_seed(0)
    block = make_block(16, reduction=1, num_heads=2, position=None).float()
    x = torch.randn(1, 16, 3, 3)
    c = block.context.fc(x.mean((2, 3))).view(1, 2, 1, 1, 8)
    inputs = block.attention_inputs(x)
    unit = inputs.content_scale / block.scale
    assert torch.equal(unit.log2(), unit.log2().round())
    query = block.query(x).view(1, 2, 8, 3, 3).movedim(2, -1)
    torch.testing.assert_close(inputs.query * unit, query * c, rtol=1e-6, atol=0)
    assert (inputs.query.abs() <= query.abs()).all()


@pytest.mark.parametrize('bias', [0.0, 1e-8])
def test_a_tiny_context_has_a_gradient_in_half_precision(bias):
    torch.manual_seed(0)
    block = make_block(16, reduction=1, num_heads=2, position=None)
    nn.init.zeros_(block.context.fc.weight)
    nn.init.constant_(block.context.fc.bias, bias)
    x = torch.randn(1, 16, 3, 3)
    found = []
    for dtype in (torch.float16, torch.float32):
        block = block.to(dtype)
        block.zero_grad()
        block(x.to(dtype)).square().sum().backward()
        found.append(block.context.fc.bias.grad.float())
    assert found[1].norm() > 0
    torch.testing.assert_close(found[0], found[1], rtol=0.05, atol=0.05 * found[1].norm())


@pytest.mark.parametrize('exponent', [-10, -1, 0, 1, 3, 29, 100])
@pytest.mark.parametrize('mantissa', [1.0, 1.0000001, 1.5, 1.9999999])
def test_factor_is_a_power_of_two_that_brings_the_context_to_one(exponent, mantissa):
    context = GlobalContext(4, 8, 2)
    nn.init.zeros_(context.fc.weight)
    nn.init.constant_(context.fc.bias, mantissa * 2.0**exponent)
    c, factor = context(torch.randn(1, 4, 3, 3))
    assert torch.equal(c * factor, context.fc.bias.view(1, 2, 1, 1, 4))
    assert torch.equal(factor.frexp().mantissa, torch.full_like(factor, 0.5))
    assert 0.25 < c.max() <= 1.000001


def test_ncnn_knows_the_operators():
    x = torch.randn(1, 4, 3, 3)
    graph = torch.jit.trace(GlobalContext(4, 8, 2), x, check_trace=False).inlined_graph
    kinds = {node.kind() for node in graph.nodes()}
    assert 'aten::log' in kinds and not kinds & {'aten::log2', 'aten::exp2', 'aten::frexp'}
