"""The fused kernels as compiled for GPUs: they fit, do not spill, and stay lean.

Nothing runs here: Triton compiles for a GPU that need not be present.
"""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

triton = find_spec('triton')
cuobjdump = triton and Path(triton.origin).parent / 'backends/nvidia/bin/cuobjdump'
pytestmark = pytest.mark.skipif(
    not (triton and cuobjdump.exists()), reason='needs Triton and its cuobjdump'
)
REPO = Path(__file__).parents[3]
#: Bytes of shared memory that a block can have, by compute capability.
SHARED = {80: 166912, 89: 101376, 90: 232448}
SPECS = {
    f'sm{arch}-{dtype}-{dims}' + ('-dropout' if dropout else ''): dict(
        arch=arch, dtype=dtype, dims=dims, width=97, position=True, dropout=dropout
    )
    for arch, dtype, dims, dropout in [
        (80, 'bfloat16', 32, 0.0),
        (80, 'bfloat16', 32, 0.1),
        (80, 'bfloat16', 128, 0.1),
        (89, 'float16', 64, 0.1),
        (89, 'float32', 64, 0.1),
        (90, 'bfloat16', 32, 0.1),
        (89, 'bfloat16', 512, 0.1),
        (89, 'float32', 256, 0.1),
    ]
}
#: Instructions of the inner loop for 4096 weights, of all warps: forward, gradients of
#: queries and of keys. A plain flash-attention loop without position takes 1024.
CEILINGS = {
    'sm80-bfloat16-32': (1300, 1600, 2050),
    'sm80-bfloat16-32-dropout': (2300, 2200, 3000),
}


@pytest.fixture(scope='module')
def compiled():
    env = {k: v for k, v in os.environ.items() if k != 'TRITON_INTERPRET'}
    env['PYTHONPATH'] = str(REPO)
    script = Path(__file__).with_name('compile_kernels.py')
    specs = [json.dumps(spec) for spec in SPECS.values()]
    run = subprocess.run(
        [sys.executable, script, *specs], env=env, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-2000:]
    kernels = [json.loads(line) for line in run.stdout.splitlines()]
    return {
        name: [kernel for kernel in kernels if kernel['spec'] == spec]
        for name, spec in SPECS.items()
    }


@pytest.mark.parametrize('name', SPECS)
def test_kernels_fit_and_do_not_spill(compiled, name):
    assert len(compiled[name]) == 3
    spec = SPECS[name]
    half = spec['dtype'] != 'float32'
    for kernel in compiled[name]:
        assert kernel['shared'] <= SHARED[spec['arch']], kernel
        assert (kernel['tensor_cores'] > 0) == half, kernel
        if spec['dims'] <= (128 if half else 64):
            assert kernel['spills'] == 0, kernel


@pytest.mark.parametrize('name', CEILINGS)
def test_inner_loops_are_lean(compiled, name):
    counts = [kernel['instructions'] for kernel in compiled[name]]
    assert all(a <= b for a, b in zip(counts, CEILINGS[name])), counts
