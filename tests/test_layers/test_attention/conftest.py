"""Fixtures of the tests of the attention."""

import pytest
import torch

from mmgcnl.layers import AttentionInputs
from mmgcnl.layers.attention.triton import validation


@pytest.fixture
def two_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def untried():
    """Forget, before and after, which kinds of input were validated."""

    def forget():
        validation._validate.cache_clear()
        validation._try_after.clear()

    forget()
    yield forget
    forget()


@pytest.fixture
def inputs() -> AttentionInputs:
    query, key = torch.randn(1, 2, 40, 40, 4), torch.randn(1, 2, 40, 40, 4)
    return AttentionInputs(query, key, torch.ones(1, 1, 1, 1, 1), None)
