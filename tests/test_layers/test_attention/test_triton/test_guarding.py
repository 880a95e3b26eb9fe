"""What kernels write beyond their outputs, or do not write, is noticed."""

import pytest
import torch

from mmgcnl.layers.attention.triton import guarding, operator, validation
from tests.test_layers.test_attention.cases import CUDA, needs_triton

KIND = dict(dims=8, tile=16, tail=False, position=True, dropout=False)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
def test_outputs_begin_as_nan_between_padding(dtype):
    like = torch.ones(3, dtype=dtype)
    with guarding.guarded_outputs() as memory:
        out = operator.empty_output(like, (2, 5))
        single = operator.empty_output(like, (3,), torch.float32)
    assert out.shape == (2, 5) and out.dtype == dtype and out.is_contiguous()
    assert single.shape == (3,) and single.dtype == torch.float32
    assert out.isnan().all() and single.isnan().all()
    assert out.data_ptr() % 16 == 0  # as Triton assumes of all tensors that torch makes
    out.zero_(), single.zero_()
    memory.check()
    assert operator.empty_output(like, (2, 5)).untyped_storage().nbytes() < 2**10


@pytest.mark.parametrize('place', [-1, 10, -(2**18), 2**18])
def test_padding_is_compared(place):
    with guarding.guarded_outputs() as memory:
        out = operator.empty_output(torch.ones(1), (10,))
    out.as_strided((1,), (1,), out.storage_offset() + place).fill_(0.0)
    with pytest.raises(RuntimeError, match='write beyond their outputs'):
        memory.check()


@needs_triton
@pytest.mark.skipif(CUDA, reason='the faults are interpreted')
@pytest.mark.parametrize(
    ('before', 'after', 'reason'),
    [
        (
            'tl.log2(row_sum), mask=inside_queries)',
            'tl.log2(row_sum))',
            'write beyond their outputs',
        ),
        ('tl.store(d_key + offsets', 'if False: tl.store(d_key + offsets', 'off by nan'),
    ],
)
def test_kernels_that_write_elsewhere_or_nothing_are_refused(
    before, after, reason, tmp_path, monkeypatch
):
    from tests.test_layers.test_attention.test_triton.sanitizer import kernels_with

    module = kernels_with(tmp_path, (before, after))
    monkeypatch.setattr(operator, 'load_kernels', lambda: module)
    found = validation.compare_with_reference('cpu', torch.float32, **KIND)
    assert reason in found
