"""The choice of the implementation, and what all of them have in common."""

import pytest
import torch

from mmgcnl.layers import (
    IMPLEMENTATIONS,
    AttentionInputs,
    GCNonLocal2d,
    Position,
    attention,
    choose_implementation,
)
from mmgcnl.layers.attention import dispatch
from mmgcnl.layers.attention.blockwise import operator as blockwise
from mmgcnl.layers.attention.triton import operator as triton
from mmgcnl.layers.attention.triton import validation
from tests.test_layers.test_attention.cases import (
    CUDA,
    NAMES,
    Case,
    block_and_input,
    needs_triton,
)


def test_choose_implementation(inputs, monkeypatch):
    monkeypatch.delenv('MMGCNL_ATTENTION', raising=False)
    assert choose_implementation(inputs) == 'blockwise'
    assert choose_implementation(inputs.of_queries(slice(3))) == 'dense'
    assert choose_implementation(inputs, 'dense') == 'dense'
    # Many small heads: to go through them one by one would take longer.
    small = torch.randn(64, 8, 10, 10, 4)
    assert choose_implementation(inputs._replace(query=small, key=small)) == 'dense'
    small = torch.randn(128, 8, 10, 10, 4)
    assert choose_implementation(inputs._replace(query=small, key=small)) == 'blockwise'
    monkeypatch.setenv('MMGCNL_ATTENTION', 'blockwise')
    assert choose_implementation(inputs.of_queries(slice(3)), 'dense') == 'blockwise'
    monkeypatch.setenv('MMGCNL_ATTENTION', 'fast')
    message = "MMGCNL_ATTENTION='fast': give one of 'dense', 'blockwise', 'triton'"
    with pytest.raises(ValueError, match=message):
        attention(inputs, inputs.key)
    monkeypatch.delenv('MMGCNL_ATTENTION')
    with pytest.raises(ValueError, match="implementation='quick'"):
        attention(inputs, inputs.key, implementation='quick')


def test_attention_runs_the_chosen_implementation(inputs, monkeypatch):
    ran = []
    for name, function in list(IMPLEMENTATIONS.items()):
        spy = lambda *args, _name=name, _f=function: ran.append(_name) or _f(*args)  # noqa: E731
        monkeypatch.setitem(dispatch.IMPLEMENTATIONS, name, spy)
    block = GCNonLocal2d(16, 1, 2)
    for size, name in ((8, 'dense'), (30, 'blockwise')):
        x = torch.randn(1, 16, size, size)
        block(x)
        assert ran == [choose_implementation(block.attention_inputs(x))] == [name]
        ran.clear()
    block.implementation = 'dense'
    block(x)
    assert ran == ['dense']


def test_traced_block_is_made_of_standard_operators():
    block, x = block_and_input(implementation=None)
    x = torch.randn(1, 16, 40, 40)
    traced = torch.jit.trace(block.eval(), x)
    assert 'mmgcnl::' not in str(traced.inlined_graph)
    torch.testing.assert_close(traced(x), block(x), rtol=1e-4, atol=1e-4)


def test_triton_falls_back_to_blockwise_with_one_warning(inputs, monkeypatch, recwarn):
    monkeypatch.setattr(dispatch, '_warned', set())
    half = inputs._replace(query=inputs.query.double())
    for _ in range(2):
        assert choose_implementation(half, 'triton') == 'blockwise'
    (warning,) = recwarn
    assert 'does not support torch.float64' in str(warning.message)
    wide = AttentionInputs(
        torch.randn(1, 1, 2, 2, 600), torch.randn(1, 1, 2, 2, 600), *inputs[2:]
    )
    assert '600 channels, more than 256' in validation.why_unsupported(wide)


@pytest.mark.parametrize('name', ['blockwise', pytest.param('triton', marks=needs_triton)])
def test_operator_is_registered_soundly(name):
    """Schema, fake implementation and autograd, by torch's own checks."""
    case = Case(1, 2, 4, (3, 5), 1, True, 1.0, 0.0, 0)
    (query, key, value, *codes), scale = case.make(torch.float32, 'cuda' if CUDA else 'cpu')
    codes = [t.requires_grad_() for t in codes]
    tensors = [t.requires_grad_() for t in (query, key, value)]
    if name == 'triton':
        tables = triton.kernel_tables(Position(*codes))
        tables = [t.detach().requires_grad_() for t in tables]
        operator = triton.forward_operator
        keys = [t.detach().flatten(2, 3).requires_grad_() for t in tensors[1:]]
        args = (query, *keys, scale.flatten(), *tables, [3, 5], 0.2, torch.tensor(3))
    else:
        operator = blockwise.forward_operator
        args = (*tensors, scale, *codes, 0.2, torch.tensor(3))
    torch.library.opcheck(operator, args, raise_exception=True)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('name', NAMES)
def test_large_features_under_autocast(name, dtype):
    """q * c and the logits pass float16's 65504; nothing may become infinite."""
    if name == 'triton' and dtype == torch.bfloat16 and not CUDA:
        pytest.skip("needs a GPU: Triton's interpreter has no bfloat16 matrix product")
    device = 'cuda' if CUDA else 'cpu'
    block = GCNonLocal2d(32, 1, 2, init='normal').to(device)
    torch.nn.init.normal_(block.out.weight, std=0.1)
    x = 1e3 * torch.randn(2, 32, 6, 7, device=device) + 500
    with torch.autocast(device, dtype=dtype):
        inputs = block.attention_inputs(x)
        assert inputs.query.dtype == dtype
        value = block._split_heads(block.value(x))
        y = IMPLEMENTATIONS[name](inputs, value)
        assert y.dtype == dtype
        (y.float().mean() / 1e3).backward()
    assert y.isfinite().all()
    for parameter in (block.query, block.key, block.position.y, block.context.fc):
        assert parameter.weight.grad.isfinite().all()
