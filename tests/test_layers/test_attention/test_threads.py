"""Heads that run on threads of their own."""

import pytest
import torch

from mmgcnl.layers.attention import blockwise
from tests.test_layers.test_attention.cases import (
    Case,
    block_and_input,
    tiles_of,
)


@pytest.mark.parametrize('dropout_p', [0.0, 0.3])
def test_heads_on_threads_of_their_own_give_the_same(dropout_p, two_threads):
    case = Case(2, 3, 6, (7, 9), 1, True, 3.0, dropout_p, 0)
    with tiles_of(500, 20):
        on_two = case.run('blockwise', torch.float32)
        assert torch.get_num_threads() == 2
        torch.set_num_threads(1)
        on_one = case.run('blockwise', torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(on_two, on_one))


def test_heads_on_threads_of_their_own_in_the_modes_of_the_caller(two_threads):
    block, x = block_and_input()
    with torch.inference_mode(), torch.autocast('cpu', dtype=torch.bfloat16):
        inputs, value = block.attention_inputs(x), block._split_heads(block.value(x))
        on_two = blockwise.blockwise_attention(inputs, value)
        torch.set_num_threads(1)
        on_one = blockwise.blockwise_attention(inputs, value)
    assert on_one.dtype == torch.bfloat16 and torch.equal(on_one, on_two)


def test_an_error_stops_all_threads_and_restores_their_number(two_threads, monkeypatch):
    calls = []

    def fail(*args):
        calls.append(args)
        raise FloatingPointError('here')

    monkeypatch.setattr(blockwise, 'forward_heads', fail)
    case = Case(2, 40, 6, (7, 9), 1, True, 3.0, 0.0, 0)
    with tiles_of(500, 20), pytest.raises(FloatingPointError, match='here'):
        case.run('blockwise', torch.float32)
    assert len(calls) <= 2 and torch.get_num_threads() == 2
