"""Heads that run on threads of their own."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from mmgcnl.layers.attention.blockwise import blockwise_attention, operator
from mmgcnl.layers.attention.blockwise.threads import map_groups
from mmgcnl.layers.attention.blockwise.tiles import divide
from tests.test_layers.test_attention.cases import (
    Case,
    block_and_input,
    tiles_of,
)


@pytest.mark.parametrize('dropout_p', [0.0, 0.3])
def test_threads_change_no_result(dropout_p, two_threads):
    case = Case(2, 3, 6, (7, 9), 1, True, 3.0, dropout_p, 0)
    with tiles_of(500, 20):
        on_two = case.run('blockwise', torch.float32)
        assert torch.get_num_threads() == 2
        torch.set_num_threads(1)
        on_one = case.run('blockwise', torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(on_two, on_one))


def test_threads_have_the_modes_of_the_caller(two_threads):
    block, x = block_and_input()
    with torch.inference_mode(), torch.autocast('cpu', dtype=torch.bfloat16):
        inputs, value = block.attention_inputs(x), block._split_heads(block.value(x))
        on_two = blockwise_attention(inputs, value)
        torch.set_num_threads(1)
        on_one = blockwise_attention(inputs, value)
    assert on_one.dtype == torch.bfloat16 and torch.equal(on_one, on_two)


def test_error_stops_all_threads_and_restores_the_thread_count(two_threads, monkeypatch):
    calls = []

    def fail(*args):
        calls.append(args)
        raise FloatingPointError('here')

    monkeypatch.setattr(operator, 'forward_heads', fail)
    case = Case(2, 40, 6, (7, 9), 1, True, 3.0, 0.0, 0)
    with tiles_of(500, 20), pytest.raises(FloatingPointError, match='here'):
        case.run('blockwise', torch.float32)
    assert len(calls) <= 2 and torch.get_num_threads() == 2


def test_thread_started_meanwhile_gets_the_default_thread_count(two_threads):
    """It is new to PyTorch, which gives it the number at that time."""
    torch.set_num_threads(4)
    started, finished = threading.Event(), threading.Event()
    case = Case(2, 3, 6, (7, 9), 1, True, 3.0, 0.0, 0)

    def serve():
        torch.get_num_threads()
        started.set()
        finished.wait(60)
        case.run('blockwise', torch.float32)

    server = threading.Thread(target=serve)

    def compute(index, scratch):
        if index[1] == slice(0, 1):
            server.start()
        started.wait(60)

    tiling = divide((1, 2, 64, 64), (64, 64), 'cpu')
    assert tiling.groups == [(slice(0, 1), slice(i, i + 1)) for i in range(2)]
    with tiles_of(500, 20):
        map_groups(compute, lambda: None, tiling, 'cpu')
        finished.set()
        server.join()
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == 4
