"""The fused kernels against the dense reference, in Triton's interpreter without a GPU."""

import pytest
import torch
from hypothesis import given, settings

from tests.test_layers.test_attention.cases import (
    CUDA,
    TOLERANCE,
    Case,
    cases,
    check,
    needs_triton,
)


@needs_triton
@settings(max_examples=8, deadline=None, derandomize=True)
@given(case=cases(dropout=False, largest=13))
@pytest.mark.parametrize('dtype', TOLERANCE)
def test_triton_is_exact(dtype, case):
    if dtype == torch.bfloat16 and not CUDA:
        pytest.skip("needs a GPU: Triton's interpreter has no bfloat16 matrix product")
    check(case, 'triton', dtype)


@needs_triton
@pytest.mark.parametrize('dims', [16, 64, 256])
def test_triton_takes_any_head_size(dims):
    check(Case(1, 1, dims, (2, 19), 1, True, 3.0, 0.0, 0), 'triton', torch.float32)


@needs_triton
@settings(max_examples=6, deadline=None, derandomize=True)
@given(case=cases(dropout=True, largest=13))
def test_triton_drops_the_same_weights_as_dense(case):
    check(case, 'triton', torch.float32)
