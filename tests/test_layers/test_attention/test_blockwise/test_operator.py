"""Blockwise attention against the dense reference in float64."""

import pytest
import torch
from hypothesis import given, settings
from torch.utils.checkpoint import checkpoint

from mmgcnl.layers import (
    AttentionInputs,
    GCNonLocal2d,
    Position,
)
from mmgcnl.layers.attention.blockwise import blockwise_attention, head_group, passes
from mmgcnl.layers.attention.reference import dense_attention
from tests.test_layers.test_attention.cases import (
    TILES,
    TOLERANCE,
    Case,
    block_and_input,
    cases,
    check,
    errors,
    output_and_gradients,
    tiles_of,
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(case=cases(dropout=False, largest=17), sizes=TILES)
@pytest.mark.parametrize('dtype', TOLERANCE)
def test_blockwise_is_exact(dtype, case, sizes):
    with tiles_of(*sizes):
        check(case, 'blockwise', dtype)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(case=cases(dropout=True, largest=13), sizes=TILES)
def test_blockwise_drops_the_same_weights_as_dense(case, sizes):
    with tiles_of(*sizes):
        check(case, 'blockwise', torch.float32)


@pytest.mark.parametrize('position', [True, False])
@pytest.mark.parametrize(('magnitude', 'normalised'), [(3.0, False), (1e3, True)])
def test_weights_are_normalised_where_rounding_of_lse_would_show(
    monkeypatch, position, magnitude, normalised
):
    calls = []
    sums = passes._sums_of_weights
    monkeypatch.setattr(
        passes, '_sums_of_weights', lambda *args: calls.append(args) or sums(*args)
    )
    case = Case(2, 2, 8, (5, 6), 1, position, magnitude, 0.0, 0)
    with tiles_of(40, 9):
        check(case, 'blockwise', torch.float32)
        assert bool(calls) == normalised
        # One key: its weight is exactly one, the gradient of the value that of the output.
        case = case._replace(grid=(3, 5), kv_stride=7)
        value_grad = case.run('blockwise', torch.float32)[3]
        exact = case.run('dense', torch.float32, compute=torch.float64)[3]
    limit = 1e-6 if normalised else 2e-5
    torch.testing.assert_close(value_grad.double(), exact, rtol=limit, atol=limit)


@pytest.mark.parametrize(('content', 'bounded'), [(0.99, True), (1.01, False)])
@pytest.mark.parametrize('largest_position', [0.0, 30.0, 80.0])
def test_largest_logit_is_subtracted_where_exp2_could_overflow(
    monkeypatch, content, bounded, largest_position
):
    """On both sides of the switch, with the largest content that each allows."""
    found = []
    is_bounded = passes._is_bounded

    def spy(*args):
        found.append(is_bounded(*args))
        return found[-1]

    monkeypatch.setattr(passes, '_is_bounded', spy)
    # One channel. The keys are +1 and -1 in turn, and the logits' content is plus or minus
    # the limit: half of the queries have it negative where their position is largest.
    ones = torch.tensor([1.0, -1.0]).repeat(6).view(1, 1, 3, 4, 1)
    query, key = (ones * content * passes.MAX_CONTENT / head_group.LOG2_E).roll(1, 2), ones
    random = torch.Generator().manual_seed(0)
    value = torch.randn(1, 1, 3, 4, 1, generator=random)
    rows, columns = torch.zeros(3, 3, 1, 1), torch.zeros(4, 4, 1, 1)
    rows[:, 0], columns[:, 2] = largest_position / 2, largest_position / 2

    def run(function, dtype):
        leaves = [t.to(dtype).requires_grad_() for t in (query, key, value, rows, columns)]
        position = Position(torch.ones_like(leaves[0]), *leaves[3:])
        scale = torch.ones(1, 1, 1, 1, 1, dtype=dtype)
        out = function(AttentionInputs(*leaves[:2], scale, position), leaves[2])
        weight = torch.arange(12, dtype=dtype).view(out.shape)
        return [out.detach(), *torch.autograd.grad((out * weight).sum(), leaves)]

    expected = run(dense_attention, torch.float64)
    with tiles_of(40, 4):
        results = run(blockwise_attention, torch.float32)
    assert set(found) == {bounded}
    of_output, *of_gradients = errors(results, expected)
    # Those of query and position cancel; the dense one's own errors reach 2.6e-4, too.
    assert of_output < 1e-6 and all(error < 5e-4 for error in of_gradients)


def test_gradcheck_of_blockwise():
    case = Case(1, 2, 2, (2, 3), 1, True, 2.0, 0.0, 0)
    tensors, scale = case.make(torch.float64, 'cpu')
    tensors = [t.double().requires_grad_() for t in tensors]

    def function(query, key, value, *position):
        inputs = AttentionInputs(query, key, scale.double(), Position(*position))
        return blockwise_attention(inputs, value, 0.4, torch.tensor(1))

    with tiles_of(12, 4):
        assert torch.autograd.gradcheck(function, tensors)


def test_blockwise_memory_is_linear(monkeypatch):
    """No step of it allocates anything like the N x M weights."""
    # In one thread, as the profiler sees no others.
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 1)
    block = GCNonLocal2d(16, 1, 2, implementation='blockwise')
    x = torch.randn(1, 16, 64, 64, requires_grad=True)
    num_weights = 2 * (64 * 64) ** 2
    with torch.profiler.profile(profile_memory=True) as profile:
        block(x).sum().backward()
    largest = max(event.self_cpu_memory_usage for event in profile.events())
    assert 2**16 < largest < 4 * num_weights / 8  # bytes; an eighth of the weights


@pytest.mark.parametrize('drop', [0.0, 0.3])
def test_blockwise_compiles_whole_and_equals_eager(drop):
    block, x = block_and_input(implementation='blockwise', attn_drop_rate=drop)
    expected = output_and_gradients(block, x)
    compiled = torch.compile(block, fullgraph=True, backend='aot_eager')
    for a, b in zip(output_and_gradients(block, x, compiled), expected):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize('reentrant', [False, True])
def test_checkpointing_drops_the_same_weights_again(reentrant):
    block, x = block_and_input(implementation='blockwise', attn_drop_rate=0.3)
    expected = output_and_gradients(block, x)
    torch.manual_seed(3)
    out = checkpoint(block, x, use_reentrant=reentrant)
    out.pow(2).sum().backward()
    grads = [x.grad, *(p.grad for p in block.parameters())]
    for a, b in zip([out, *grads], expected):
        torch.testing.assert_close(a, b)
