"""Kernels that are not supported, fail or err are not used."""

import pytest
import torch

from mmgcnl.layers import (
    AttentionInputs,
    attention,
    choose_implementation,
)
from mmgcnl.layers.attention import dense, fused, validation
from tests.test_layers.test_attention.cases import (
    CUDA,
    needs_triton,
)


@pytest.fixture
def untried():
    validation._validate.cache_clear()
    yield
    validation._validate.cache_clear()


def test_a_kernel_that_fails_or_errs_is_not_used(inputs, monkeypatch, untried):
    def broken(*args):
        raise RuntimeError('out of resource: shared memory')

    monkeypatch.setattr(fused, 'triton_attention', broken)
    assert 'RuntimeError: out of resource' in validation.why_unsupported(inputs)
    validation._validate.cache_clear()
    wrong = lambda *args: 1.001 * dense.dense_attention(*args)  # noqa: E731
    monkeypatch.setattr(fused, 'triton_attention', wrong)
    assert 'off by 1.0e-03' in validation.why_unsupported(inputs)


@needs_triton
def test_a_kernel_that_works_is_used(inputs, untried):
    inputs = inputs.of_queries(slice(1))
    inputs = AttentionInputs(*(t.to('cuda' if CUDA else 'cpu') for t in inputs[:3]), None)
    assert choose_implementation(inputs, 'triton') == 'triton'
    out = attention(inputs, inputs.key, implementation='triton')
    torch.testing.assert_close(out, dense.dense_attention(inputs, inputs.key))
