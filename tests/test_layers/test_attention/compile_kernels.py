"""Compile the fused kernels for a GPU on a machine without one, and count instructions.

python compile_kernels.py SPEC ..., where a spec is a JSON object with the keys arch, dtype,
dims, width, position and dropout. Prints one JSON object for each kernel that an attention
of that kind, forward and backward, would launch. It runs in a process of its own, without
TRITON_INTERPRET, in which Triton sees a driver that only names its target.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from mmgcnl.layers import AttentionInputs, Position
from mmgcnl.layers.attention import fused, triton_kernels

CUOBJDUMP = Path(triton.__file__).parent / 'backends/nvidia/bin/cuobjdump'
KERNELS = ('forward_kernel', 'query_gradient_kernel', 'key_gradient_kernel')


class Driver:
    """What compiling for a launch asks of a driver."""

    def __init__(self, arch: int) -> None:
        self.target = GPUTarget('cuda', arch, 32)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return self.target.arch

    def get_current_stream(self, device: int) -> int:
        return 0


class Recorder:
    """Stands in for the module of the kernels: compiles instead of launching."""

    def __init__(self) -> None:
        self.compiled = []

    def __getattr__(self, name: str):
        return Launcher(getattr(triton_kernels, name), self.compiled)


class Launcher:
    def __init__(self, jit, compiled: list) -> None:
        self.jit, self.compiled = jit, compiled

    def __getitem__(self, grid):
        def launch(*args, **options):
            kernel = self.jit.run(*args, grid=grid, warmup=True, **options)
            self.compiled.append((self.jit.fn.__name__, options, kernel))

        return launch


def dump(option: str, cubin: bytes) -> str:
    with tempfile.NamedTemporaryFile(suffix='.cubin') as file:
        file.write(cubin)
        file.flush()
        command = [CUOBJDUMP, option, file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def inner_loop(sass: str) -> list[str]:
    """The opcodes of the innermost loop with matrix products."""
    lines = re.findall(r'/\*([0-9a-f]{4,5})\*/\s+(.*?);', sass)
    code = [(int(at, 16), re.sub(r'^@!?U?P\w+\s+', '', text)) for at, text in lines]
    bodies = []
    for at, text in code:
        branch = re.search(r'\bBRA\b.*?(0x[0-9a-f]+)', text)
        if branch and int(branch[1], 16) < at:
            start = int(branch[1], 16)
            body = [t.split()[0].split('.')[0] for a, t in code if start <= a <= at]
            if {'HMMA', 'HGMMA', 'FFMA'} & set(body) and len(body) > 150:
                bodies.append(body)
    return min(bodies, key=len)


def main(spec: dict) -> None:
    driver.set_active(Driver(spec['arch']))
    recorder = Recorder()
    fused.kernels = lambda: recorder
    height, width, dims = 3, spec['width'], spec['dims']
    shape, dtype = (1, 1, height, width, dims), getattr(torch, spec['dtype'])
    tensors = [torch.zeros(shape, dtype=dtype).requires_grad_() for _ in range(3)]
    position = None
    if spec['position']:
        codes = (torch.zeros(n, n, 1, dims).requires_grad_() for n in (height, width))
        position = Position(tensors[0], *codes)
    scale = torch.ones(1, 1, 1, 1, 1)
    inputs = AttentionInputs(tensors[0], tensors[1], scale, position)
    seed = torch.tensor(1) if spec['dropout'] else None
    out = fused.triton_attention(inputs, tensors[2], spec['dropout'], seed)
    out.sum().backward()
    assert [name for name, _, _ in recorder.compiled] == list(KERNELS)
    for name, options, kernel in recorder.compiled:
        cubin = kernel.asm['cubin']
        loop = inner_loop(dump('-sass', cubin))
        usage = re.search(r'REG:(\d+) STACK:(\d+)', dump('--dump-resource-usage', cubin))
        weights = options['BLOCK_M'] * options['BLOCK_N']
        result = dict(
            kernel=name,
            tile=[options['BLOCK_M'], options['BLOCK_N'], options['num_warps']],
            shared=kernel.metadata.shared,
            registers=int(usage[1]),
            stack=int(usage[2]),
            # Of all warps, for as many weights as a tile of 64 x 64 has.
            instructions=round(len(loop) * options['num_warps'] * 4096 / weights),
            spills=sum(opcode in ('LDL', 'STL') for opcode in loop),
            tensor_cores=sum(opcode in ('HMMA', 'HGMMA') for opcode in loop),
        )
        print(json.dumps({'spec': spec, **result}), flush=True)


if __name__ == '__main__':
    for argument in sys.argv[1:]:
        main(json.loads(argument))
