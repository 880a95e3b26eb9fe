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

from tests.test_layers.test_attention.cases import TRITON, WITH_TORCH_ALONE

spec = find_spec('triton')
cuobjdump = spec and Path(spec.origin).parent / 'backends/nvidia/bin/cuobjdump'
pytestmark = pytest.mark.skipif(
    # As in requirements/tests.txt. Others compile to other instructions and registers.
    not (cuobjdump and cuobjdump.exists() and TRITON.startswith('3.7.')),
    reason='needs Triton 3.7 and its cuobjdump',
)
REPO = Path(__file__).parents[4]
SPECS = {
    f'sm{arch}-{dtype}-{dims}-{width}' + ('-dropout' if dropout else ''): dict(
        arch=arch, dtype=dtype, dims=dims, width=width, position=True, dropout=dropout
    )
    for arch, dtype, dims, width, dropout in [
        (80, 'bfloat16', 32, 97, 0.0),
        (80, 'bfloat16', 32, 97, 0.1),
        (80, 'bfloat16', 32, 49, 0.1),
        (80, 'bfloat16', 128, 97, 0.1),
        (86, 'float16', 64, 97, 0.1),
        (89, 'bfloat16', 32, 97, 0.1),
        (89, 'float32', 64, 97, 0.1),
        (90, 'bfloat16', 32, 25, 0.1),
        (89, 'bfloat16', 512, 97, 0.1),
        (89, 'float32', 256, 97, 0.1),
    ]
}
#: Instructions of the inner loop for 4096 weights, of all warps. A plain flash-attention
#: loop without position takes 1024.
CEILINGS = {
    'sm80-bfloat16-32-97': dict(
        forward_kernel=1300, query_gradient_kernel=1600, key_gradient_kernel=2000
    ),
    'sm80-bfloat16-32-97-dropout': dict(
        forward_kernel=2300, query_gradient_kernel=2200, key_gradient_kernel=3000
    ),
}


@pytest.fixture(scope='module')
def compiled():
    env = {k: v for k, v in os.environ.items() if k != 'TRITON_INTERPRET'}
    env['PYTHONPATH'] = str(REPO)
    script = Path(__file__).with_name('compile_kernels.py')
    specs = [json.dumps(spec) for spec in SPECS.values()]
    command = [sys.executable, '-c', WITH_TORCH_ALONE, script, *specs]
    run = subprocess.run(command, env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    kernels = [json.loads(line) for line in run.stdout.splitlines()]
    return {
        name: [kernel for kernel in kernels if kernel['spec'] == spec]
        for name, spec in SPECS.items()
    }


@pytest.mark.parametrize('name', SPECS)
def test_kernels_fit_do_not_spill_and_widen_the_head(compiled, name):
    spec = SPECS[name]
    tail = [kernel for kernel in compiled[name] if kernel['tail']]
    # The key gradient's tail is a launch of its own.
    assert len(compiled[name]) == (4 if tail else 3)
    assert len(tail) == (4 if spec['width'] in (25, 49, 97) else 0)
    for kernel in compiled[name]:
        assert kernel['faults'] == [], kernel


@pytest.mark.parametrize('name', CEILINGS)
def test_inner_loops_are_lean(compiled, name):
    for kernel in compiled[name]:
        # In the tiles of rows and, where they are in the same kernel, of the tail.
        assert max(kernel['instructions']) <= CEILINGS[name][kernel['kernel']], kernel
