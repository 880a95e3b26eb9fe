"""Kernels that are not supported, fail or err are not used."""

import itertools
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch

from mmgcnl.layers import (
    AttentionInputs,
    Position,
    attention,
    choose_implementation,
)
from mmgcnl.layers.attention import dispatch
from mmgcnl.layers.attention.reference import dense_attention
from mmgcnl.layers.attention.triton import operator, tiles, validation
from tests.test_layers.test_attention.cases import (
    CUDA,
    WITH_TORCH_ALONE,
    compare_with_dense,
    needs_triton,
)


@pytest.fixture
def untried():
    def forget():
        validation._validate.cache_clear()
        validation._try_after.clear()

    forget()
    yield
    forget()


@pytest.fixture
def on_gpu(inputs, monkeypatch):
    """Make inputs that say they are on a GPU of some kind; counts who asks for a check."""

    class OnGpu(torch.Tensor):
        device = torch.device('cuda:0')

    tried = []
    monkeypatch.setattr(validation, 'validate_kernels', lambda *kind: tried.append(kind))

    def make(name, capability, memory=101376, dims=32):
        gpu = SimpleNamespace(name=name, shared_memory_per_block_optin=memory)
        gpu.major, gpu.minor = capability
        monkeypatch.setattr(torch.cuda, 'get_device_properties', lambda device: gpu)
        monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: capability)
        query = torch.zeros(1, 1, 2, 2, dims, dtype=torch.float16).as_subclass(OnGpu)
        return inputs._replace(query=query, key=query), tried

    return make


TF32 = """
import os
import torch
from mmgcnl.layers.attention.triton.validation import _without_tf32

matmul = torch.backends.cuda.matmul
off = lambda: getattr(matmul, 'fp32_precision', None) in (None, 'ieee') and (
    hasattr(matmul, 'fp32_precision') or not matmul.allow_tf32
)
for setting, reading in {cases}:
    child = os.fork()
    if not child:
        exec(setting)
        before = eval(reading)
        assert _without_tf32()(off)() is True, setting
        assert eval(reading) == before, (setting, eval(reading), before)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, setting
"""
OLD = 'torch.get_float32_matmul_precision()'


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs fork')
def test_validation_is_without_tf32(tmp_path):
    """In processes of their own, since torch does not forget which settings were used."""
    cases = [
        ('pass', OLD),
        ("torch.set_float32_matmul_precision('high')", OLD),
        ("torch.set_float32_matmul_precision('medium')", OLD),
    ]
    if hasattr(torch.backends.cuda.matmul, 'fp32_precision'):
        cases += [
            ("matmul.fp32_precision = 'tf32'", 'matmul.fp32_precision'),
            ("torch.backends.fp32_precision = 'tf32'", 'torch.backends.fp32_precision'),
        ]
    script = tmp_path / 'settings.py'
    script.write_text(TF32.format(cases=cases))
    subprocess.run([sys.executable, '-c', WITH_TORCH_ALONE, script], check=True)


@needs_triton
def test_failing_or_inexact_kernels_are_refused(inputs, monkeypatch, untried):
    def broken(*args):
        raise RuntimeError('out of resource: shared memory')

    monkeypatch.setattr(operator, 'triton_attention', broken)
    assert 'RuntimeError: out of resource' in validation.why_unsupported(inputs)
    validation._validate.cache_clear()
    wrong = lambda *args: 1.001 * dense_attention(*args)  # noqa: E731
    monkeypatch.setattr(operator, 'triton_attention', wrong)
    assert 'off by 1.0e-03' in validation.why_unsupported(inputs)


@needs_triton
def test_out_of_memory_is_not_remembered(inputs, monkeypatch, untried):
    def full(*args):
        raise torch.cuda.OutOfMemoryError

    with monkeypatch.context() as patch:
        patch.setattr(operator, 'triton_attention', full)
        assert 'no memory left' in validation.why_unsupported(inputs)
    # A child process takes seconds: not in every iteration.
    assert 'no memory left' in validation.why_unsupported(inputs)
    now = time.monotonic()
    monkeypatch.setattr(time, 'monotonic', lambda: now + validation.RETRY_AFTER + 60)
    assert validation.why_unsupported(inputs) is None


@needs_triton
def test_validated_kernels_are_used(inputs, untried):
    inputs = inputs.of_queries(slice(1))
    inputs = AttentionInputs(*(t.to('cuda' if CUDA else 'cpu') for t in inputs[:3]), None)
    assert choose_implementation(inputs, 'triton') == 'triton'
    out = attention(inputs, inputs.key, implementation='triton')
    torch.testing.assert_close(out, dense_attention(inputs, inputs.key))


@needs_triton
def test_triton_version_that_crashes_is_refused(inputs, monkeypatch, untried):
    monkeypatch.setattr(operator.load_kernels().triton, '__version__', '3.0.0')
    monkeypatch.setattr(operator, 'triton_attention', lambda *args: pytest.fail('called'))
    assert 'Triton 3.0.0 crashes' in validation.why_unsupported(inputs)


@needs_triton
@pytest.mark.parametrize(
    'mode', [torch.inference_mode, lambda: torch.autocast('cpu', dtype=torch.bfloat16)]
)
def test_validation_ignores_the_modes_of_the_caller(inputs, untried, mode):
    # With position: it is the tables that autocast would round.
    codes = torch.randn(40, 40, 2, 4) / 4
    inputs = inputs._replace(position=Position(inputs.query, codes, codes))
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
    assert [kind[3:] for kind in seen] == [
        (*tiles.tile_of_keys(32, grid), *flags)
        for grid, flags in [((40, 40), (True, False)), ((1, 1600), (False, True))]
    ]


def test_unsupported_inputs_are_refused_with_the_reason(inputs):
    half = inputs._replace(key=inputs.key.half())
    assert 'but key has torch.float16' in validation.why_unsupported(half)
    with pytest.raises(TypeError, match='value has dtype torch.float16'):
        operator.triton_attention(inputs, inputs.key.half())
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
    used = set()
    for grid in itertools.product((1, 2, 3, 17, 33, 65, 128), range(1, 200)):
        kernels = ('forward', 'query_gradient', 'key_gradient')
        options = [tiles.tile_options(dims, dtype, grid, kernel) for kernel in kernels]
        # One validation is for all three.
        (tile,) = {(option['BLOCK_N'], option['TAIL']) for option in options}
        assert max(option['BLOCK_M'] for option in options) <= tiles.MAX_QUERIES
        used.add(tile)
    assert {tail for _, tail in used} == {False, True}
    for tile in used:
        grid = validation._grid_of_tile(dims, dtype, *tile)
        assert tiles.tile_of_keys(max(n for n, _ in used), grid) == tile


@pytest.mark.parametrize(
    ('name', 'capability'),
    [('Tesla V100', (7, 0)), ('NVIDIA T4', (7, 5)), ('Tesla P100', (6, 0))],
)
def test_gpus_without_the_tensor_cores_of_8_0_are_refused(name, capability, on_gpu):
    inputs, tried = on_gpu(name, capability)
    reason = validation.why_unsupported(inputs)
    major, minor = capability
    assert f'capability 8.0 and later, and {name} has {major}.{minor}' in reason
    assert not tried


@pytest.mark.parametrize('capability', [(8, 0), (8, 9), (9, 0), (10, 0), (12, 0)])
def test_later_gpus_are_checked(capability, on_gpu):
    inputs, tried = on_gpu('a GPU', capability)
    assert validation.why_unsupported(inputs) is None
    assert len(tried) == 1


def test_amd_gpus_are_refused(on_gpu, monkeypatch):
    """Their tensors are on 'cuda', too, and their capability is that of their own count."""
    inputs, tried = on_gpu('AMD Instinct MI300X', (9, 4))
    monkeypatch.setattr(torch.version, 'hip', '6.4.43482')
    monkeypatch.setattr(dispatch, '_warned', set())
    with pytest.warns(UserWarning, match='on AMD GPUs its gradients could be wrong'):
        assert choose_implementation(inputs) == 'blockwise'
    assert not tried


def test_other_devices_are_refused(inputs, monkeypatch):
    class OnIntel(torch.Tensor):
        device = torch.device('xpu:0')

    query = inputs.query.as_subclass(OnIntel)
    inputs = inputs._replace(query=query, key=query)
    monkeypatch.setattr(dispatch, '_warned', set())
    with pytest.warns(UserWarning, match="it is for NVIDIA GPUs, not for 'xpu'"):
        assert choose_implementation(inputs, 'triton') == 'blockwise'
    assert choose_implementation(inputs) == 'blockwise'  # without a warning


def test_what_does_not_fit_the_shared_memory_is_refused_from_the_limits(
    on_gpu, monkeypatch
):
    wide, tried = on_gpu('a small GPU', (8, 0), 65536, dims=512)
    reason = validation.why_unsupported(wide)
    assert 'bytes of shared memory, and a small GPU has 65536' in reason
    assert not tried
    narrow, _ = on_gpu('a small GPU', (8, 0), 65536)
    assert validation.why_unsupported(narrow) is None
    assert len(tried) == 1
    # Tiles that were measured on another GPU of the same capability, with more memory.
    entry = tiles.Measured(128, 8, 3, 70000, 'a large GPU', '2027-01-31')
    key = (8, 0), torch.float16, 32, 64, 'forward'
    monkeypatch.setitem(tiles.MEASURED, key, entry)
    reason = validation.why_unsupported(narrow)
    assert 'need 70000 bytes of shared memory, and a small GPU has 65536' in reason
    assert len(tried) == 1


@needs_triton
def test_measured_tiles_are_used(monkeypatch):
    """Those of the GPU's capability, kernel by kernel; with them, the kernels are exact."""
    grid = (3, 19)
    before = tiles.tile_options(8, torch.float32, grid)
    tile = before['BLOCK_D'], before['BLOCK_N']
    entry = tiles.Measured(16, 8, 3, 20000, 'a GPU', '2027-01-31')
    for kernel in ('forward', 'key_gradient'):
        key = (8, 0), torch.float32, *tile, kernel
        monkeypatch.setitem(tiles.MEASURED, key, entry)
    capability = (8, 0)
    monkeypatch.setattr(operator, '_capability', lambda device: capability)
    kernels, launched = operator.load_kernels(), {}

    class Recorder:
        def __getattr__(self, name):
            class Launcher:
                def __getitem__(self, launch):
                    def run(*args, **options):
                        launched[name] = options
                        getattr(kernels, name)[launch](*args, **options)

                    return run

            return Launcher()

    monkeypatch.setattr(operator, 'load_kernels', Recorder)
    compare_with_dense((3, 7), grid)
    names = ('BLOCK_M', 'num_warps', 'num_stages')
    sizes = {k: tuple(o[name] for name in names) for k, o in launched.items()}
    assert sizes['forward_kernel'] == sizes['key_gradient_kernel'] == entry[:3]
    own = tiles.tile_options(8, torch.float32, grid, 'query_gradient')
    assert sizes['query_gradient_kernel'] == tuple(own[name] for name in names) != entry[:3]
    capability = (9, 0)
    compare_with_dense((3, 7), grid)
    assert launched['forward_kernel']['BLOCK_M'] == before['BLOCK_M'] != 16


def test_offsets_of_the_last_tile_are_counted(inputs):
    """Of a tile's queries beyond the last, too, which the kernels step over."""
    codes = torch.empty(0), torch.empty(0)
    for queries, unsupported in ((2**23 - 1, True), (2**23 - 129, False)):
        query = torch.empty(1, 1, 1, queries, 4, device='meta')
        keys = torch.empty(1, 1, 1, 250, 4, device='meta')
        wide = AttentionInputs(query, keys, inputs.content_scale, Position(query, *codes))
        reason = validation.why_unsupported(wide)
        assert (reason is not None and 'beyond 2^31' in reason) == unsupported
