"""Kernels that are not supported, fail or err are not used."""

import pytest
import torch

from mmgcnl.layers import (
    AttentionInputs,
    Position,
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


@needs_triton
@pytest.mark.parametrize(
    'mode', [torch.inference_mode, lambda: torch.autocast('cpu', dtype=torch.bfloat16)]
)
def test_the_modes_of_the_first_call_do_not_matter(inputs, untried, mode):
    inputs = inputs.of_queries(slice(1))
    with mode():
        assert validation.why_unsupported(inputs) is None


@needs_triton
def test_validation_draws_no_random_numbers_and_warns_of_nothing(inputs, untried, recwarn):
    state = torch.get_rng_state()
    assert validation.why_unsupported(inputs, dropout_p=0.1) is None
    assert torch.equal(torch.get_rng_state(), state)
    assert not [w for w in recwarn if 'rng' in str(w.message).lower()]


def test_every_kind_is_validated_with_its_own_tile_and_dropout(inputs, monkeypatch):
    seen = []
    monkeypatch.setattr(validation, 'validate_kernels', lambda *kind: seen.append(kind))
    position = Position(inputs.query, *(torch.randn(40, 40, 2, 4) for _ in range(2)))
    validation.why_unsupported(inputs._replace(position=position))
    validation.why_unsupported(inputs, dropout_p=0.1)
    tiles = [fused.tile_options(4, torch.float32, w)['BLOCK_N'] for w in (40, 1600)]
    assert [kind[3:] for kind in seen] == [(tiles[0], True, False), (tiles[1], False, True)]


def test_what_cannot_be_computed_is_refused_by_name(inputs):
    half = inputs._replace(key=inputs.key.half())
    assert 'but key has torch.float16' in validation.why_unsupported(half)
    with pytest.raises(TypeError, match='value has dtype torch.float16'):
        fused.triton_attention(inputs, inputs.key.half())
    large = torch.empty(1, 1, 2**12, 2**12, 4, device='meta')
    keys = torch.empty(1, 1, 2, 128, 4, device='meta')
    codes = torch.empty(0), torch.empty(0)
    position = Position(large, *codes)
    wide = AttentionInputs(large, keys, inputs.content_scale, position)
    assert 'beyond 2^31' in validation.why_unsupported(wide)
    many = torch.empty(2**13, 8, 2, 2, 4, device='meta')
    many = AttentionInputs(many, many, inputs.content_scale, None)
    assert 'heads of all images' in validation.why_unsupported(many)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
@pytest.mark.parametrize('dims', [32, 64, 128, 256])
def test_every_tile_in_use_can_be_validated(dtype, dims):
    for width in range(1, 300):
        tile = fused.tile_options(dims, dtype, width)['BLOCK_N']
        tried = validation._width_of_tile(dims, dtype, tile)
        assert fused.tile_options(dims, dtype, tried)['BLOCK_N'] == tile
