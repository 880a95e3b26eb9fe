"""The fused kernels against the dense reference, in Triton's interpreter without a GPU."""

import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmgcnl.layers import AttentionInputs, Position
from mmgcnl.layers.attention.reference import dense_attention
from mmgcnl.layers.attention.triton import operator, tiles, validation
from tests.test_layers.test_attention.cases import (
    CUDA,
    TOLERANCE,
    Case,
    block_and_input,
    cases,
    check,
    compare_with_dense,
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
@pytest.mark.parametrize('remainder', range(0, 64, 8))
def test_triton_is_exact_at_every_width(remainder):
    """Rows of keys with every remainder of the widest tile, many of them with a tail."""
    for width in range(64 + remainder, 72 + remainder):
        compare_with_dense((1, 5), (5, width), dtype=torch.float16)


@needs_triton
@pytest.mark.parametrize(
    ('dtype', 'grid', 'dropout_p'),
    [(torch.float32, (35, 69), 0.2), (torch.float16, (67, 69), 0.0)],
)
def test_triton_is_exact_with_a_tail_of_several_tiles(dtype, grid, dropout_p):
    """Several tiles of queries and of rows, and columns of more than a tile that remain."""
    widest = 64 if dtype == torch.float16 else 32
    assert tiles.tile_of_keys(widest, grid) == (widest, True)
    compare_with_dense((5, 15), grid, heads=2, dims=24, dtype=dtype, dropout_p=dropout_p)


@needs_triton
@pytest.mark.parametrize('grids', [((5, 17), (5, 17)), ((3, 4), (19, 9))])
def test_triton_shares_tables_between_images(grids, monkeypatch):
    """Position that does not depend on the content has one image's tables."""
    shapes = []
    forward = operator.forward_operator

    def record(*args):
        shapes.extend(table.shape[0] for table in args[4:6])
        return forward(*args)

    monkeypatch.setattr(operator, 'forward_operator', record)
    compare_with_dense(*grids, batch=3, heads=2, position_batch=1)
    assert shapes == [1, 1]


@needs_triton
def test_triton_takes_strided_inputs_and_any_subset_of_gradients():
    generator = torch.Generator().manual_seed(0)

    def strided(*shape):
        storage = torch.randn(*shape[::-1], 2, generator=generator)
        return storage[..., 1].permute(*range(len(shape))[::-1])

    shapes = [(2, 2, 3, 5, 8), (2, 2, 3, 19, 8), (2, 2, 3, 19, 8)]
    shapes += [(2, 2, 3, 5, 8), (3, 3, 2, 8), (5, 19, 2, 8)]
    tensors = [strided(*shape) for shape in shapes]
    scale = torch.rand(2, 2, 1, 1, 1, generator=generator)
    weight = torch.randn(shapes[0], generator=generator).transpose(2, 3).contiguous()

    def gradients(function, wanted):
        leaves = [t.detach().requires_grad_(i in wanted) for i, t in enumerate(tensors)]
        query, key, value, *position = leaves
        inputs = AttentionInputs(query, key, scale, Position(*position))
        out = function(inputs, value)
        # The gradient of the output arrives strided, too.
        loss = (out.transpose(2, 3) * weight).sum()
        return torch.autograd.grad(loss, [leaves[i] for i in wanted])

    for wanted in ([0], [1], [2], [3, 5], [4], [0, 2, 5], range(6)):
        pairs = zip(
            gradients(operator.triton_attention, wanted), gradients(dense_attention, wanted)
        )
        for a, b in pairs:
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@needs_triton
@pytest.mark.parametrize('empty', ['batch', 'queries', 'keys'])
def test_triton_takes_empty_maps(empty):
    sizes = dict(batch=2, queries=3, keys=4)
    sizes[empty] = 0
    query = torch.randn(sizes['batch'], 1, 2, sizes['queries'], 8, requires_grad=True)
    key = torch.randn(sizes['batch'], 1, 2, sizes['keys'], 8, requires_grad=True)
    codes = [torch.randn(2, 2, 1, 8), torch.randn(sizes['queries'], sizes['keys'], 1, 8)]
    inputs = AttentionInputs(query, key, torch.ones(1, 1, 1, 1, 1), Position(query, *codes))
    for function in (operator.triton_attention, dense_attention):
        out = function(inputs, key)
        assert out.shape == query.shape
        assert not out.any()
        for grad in torch.autograd.grad(out.sum(), (query, key)):
            assert not grad.any()


@needs_triton
def test_unstored_weights_do_not_overflow():
    """Logits of keys beyond the last are those of the last, however large logits are."""
    with warnings.catch_warnings():
        warnings.simplefilter('error', RuntimeWarning)
        for key_grid in ((3, 1), (5, 2), (2, 19), (19, 17)):
            # Nearly all weights are 0 or 1, so that relative errors mean nothing.
            compare_with_dense((2, 3), key_grid, magnitude=1e3, tolerance=math.inf)


@pytest.mark.parametrize('width', [25, 40, 49, 60, 97])
@pytest.mark.parametrize('widest', [32, 64])
def test_keys_are_padded_by_a_quarter_at_most(width, widest):
    for height in (width, width // 2 + 1):
        tile, tail = tiles.tile_of_keys(widest, (height, width))
        whole = width // tile * tile if tail else width
        keys = -(-whole // tile) * tile * height
        keys += (width - whole) * -(-height // tile) * tile
        assert keys <= 1.25 * height * width


@pytest.mark.parametrize('grid', [(1, 1), (1, 17), (3, 25), (25, 25), (67, 69), (97, 97)])
@pytest.mark.parametrize('widest', [16, 32, 64])
def test_tiles_hold_every_key_once(grid, widest):
    """A model of the kernels' tiles: rows, and columns of a tail."""
    (height, width), (tile, tail) = grid, tiles.tile_of_keys(widest, grid)
    whole = width // tile * tile if tail else width
    keys = [row * width + x for row in range(height) for x in range(whole)]
    keys += [y * width + x for x in range(whole, width) for y in range(height)]
    assert sorted(keys) == list(range(height * width))
    assert not tail or 0 < whole < width


@needs_triton
@pytest.mark.parametrize('dynamic', [None, True])
def test_triton_compiles_whole_when_first_met(dynamic):
    validation._validate.cache_clear()
    block, x = block_and_input(implementation='triton', attn_drop_rate=0.3)
    expected = output_and_gradients(block, x)
    validation._validate.cache_clear()
    compiled = torch.compile(block, fullgraph=True, backend='aot_eager', dynamic=dynamic)
    for a, b in zip(output_and_gradients(block, x, compiled), expected):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize('size', [(128, 256), (97, 97)])
def test_offsets_of_large_maps_fit_their_type(size):
    """A model of the kernels' address arithmetic, in int32, as within a head.

    Every entry of a head has an offset of its own, in the order of a tensor without gaps.
    Where a head starts is computed in int64.
    """
    height, width = size
    stride = tiles.padded_width(width)
    queries = torch.arange(height * width, dtype=torch.int32)
    rows = torch.arange(height, dtype=torch.int32) * width
    by_row = queries // width * (height * width) + queries % width
    by_column = (queries % width * height + queries // width) * stride
    columns = torch.arange(stride, dtype=torch.int32)
    for offsets in (by_row[:, None] + rows, by_column[:, None] + columns):
        seen = torch.zeros(offsets.numel(), dtype=torch.bool)
        seen[offsets.flatten().long()] = True
        assert seen.all()
