"""The fused kernels against the dense reference, in Triton's interpreter without a GPU."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmgcnl.layers.attention import fused, validation
from tests.test_layers.test_attention.cases import (
    CUDA,
    TOLERANCE,
    Case,
    block_and_input,
    cases,
    check,
    needs_triton,
    output_and_gradients,
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


@needs_triton
@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    width=st.integers(30, 70),
    dims=st.sampled_from([24, 40, 64]),
    dtype=st.sampled_from([torch.float32, torch.float16]),
    dropout_p=st.sampled_from([0.0, 0.2]),
)
def test_triton_is_exact_over_the_tiles_really_used(width, dims, dtype, dropout_p):
    """Widths of any remainder, several tiles a row, and several heads and images."""
    check(Case(2, 2, dims, (2, width), 1, True, 3.0, dropout_p, 0), 'triton', dtype)


@needs_triton
def test_triton_compiles_whole_when_first_met():
    validation._validate.cache_clear()
    block, x = block_and_input(implementation='triton', attn_drop_rate=0.3)
    expected = output_and_gradients(block, x)
    validation._validate.cache_clear()
    compiled = torch.compile(block, fullgraph=True, backend='aot_eager')
    for a, b in zip(output_and_gradients(block, x, compiled), expected):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize('size', [(128, 256), (97, 97)])
def test_offsets_of_large_maps_fit_their_type(size):
    """A model of the kernels' address arithmetic, in int32, as within a head.

    Every entry of a head has an offset of its own, in the order of a tensor without gaps.
    Where a head starts is computed in int64.
    """
    height, width = size
    stride = fused.padded_width(width)
    queries = torch.arange(height * width, dtype=torch.int32)
    rows = torch.arange(height, dtype=torch.int32) * width
    by_row = queries // width * (height * width) + queries % width
    by_column = (queries % width * height + queries // width) * stride
    columns = torch.arange(stride, dtype=torch.int32)
    for offsets in (by_row[:, None] + rows, by_column[:, None] + columns):
        seen = torch.zeros(offsets.numel(), dtype=torch.bool)
        seen[offsets.flatten().long()] = True
        assert seen.all()
