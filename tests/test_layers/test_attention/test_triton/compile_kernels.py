"""Compile the fused kernels for GPUs on a machine without one, and count instructions.

python compile_kernels.py SPEC ..., where a spec is a JSON object with the keys arch, dtype,
dims, width, position and dropout. Prints one JSON object for each kernel that an attention
of that kind on a square map, forward and backward, would launch. It runs in a process of
its own, without TRITON_INTERPRET, in which Triton sees a driver that only names its target.

python compile_kernels.py --all RESULTS.jsonl compiles kinds of input that stand for all
(every_kind), appends each to the file, and prints the faulty kernels. Started again, it
goes on where it stopped. It fails if a kernel does not fit, spills in an inner loop where
it must not, or does not use tensor cores.
"""

import itertools
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from mmgcnl.layers import AttentionInputs, Position
from mmgcnl.layers.attention.triton import kernels, operator, validation
from mmgcnl.layers.attention.triton.tiles import shared_bytes, tile_options

CUOBJDUMP = Path(triton.__file__).parent / 'backends/nvidia/bin/cuobjdump'
#: Bytes of shared memory that a block can have, by compute capability.
SHARED = {80: 166912, 86: 101376, 89: 101376, 90: 232448}
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


class Compiler:
    """Stands in for a kernel: compiles and notes it instead of launching it."""

    def __init__(self, name: str, compiled: list) -> None:
        self.name, self.compiled = name, compiled

    def __getitem__(self, grid):
        def launch(*args, **options):
            jit = getattr(kernels, self.name)
            kernel = jit.run(*args, grid=grid, warmup=True, **options)
            self.compiled.append((self.name, options, kernel))

        return launch


def dump(option: str, cubin: bytes) -> str:
    with tempfile.NamedTemporaryFile(suffix='.cubin') as file:
        file.write(cubin)
        file.flush()
        command = [CUOBJDUMP, option, file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def inner_loops(sass: str) -> list[list[str]]:
    """The opcodes of the innermost loops with matrix products, in the order of the code."""
    lines = re.findall(r'/\*([0-9a-f]{4,5})\*/\s+(.*?);', sass)
    code = [(int(at, 16), re.sub(r'^@!?U?P\w+\s+', '', text)) for at, text in lines]
    bodies = {}
    for at, text in code:
        branch = re.search(r'\bBRA\b.*?(0x[0-9a-f]+)', text)
        if branch and int(branch[1], 16) < at:
            start = int(branch[1], 16)
            body = [t.split()[0].split('.')[0] for a, t in code if start <= a <= at]
            if {'HMMA', 'HGMMA', 'FFMA'} & set(body) and len(body) > 150:
                bodies[start, at] = body
    return [
        bodies[start, end]
        for start, end in sorted(bodies)
        if not any(
            (start, end) != other and start <= other[0] and other[1] <= end
            for other in bodies
        )
    ]


def compiled(spec: dict) -> list[dict]:
    """What is known of each kernel that an attention of this kind would launch."""
    driver.set_active(Driver(spec['arch']))
    seen = []
    module = SimpleNamespace(**{name: Compiler(name, seen) for name in KERNELS})
    operator.load_kernels = lambda: module
    operator._capability = lambda device: divmod(spec['arch'], 10)
    width, dims = spec['width'], spec['dims']
    shape, dtype = (1, 1, width, width, dims), getattr(torch, spec['dtype'])
    tensors = [torch.zeros(shape, dtype=dtype).requires_grad_() for _ in range(3)]
    position = None
    if spec['position']:
        codes = (torch.zeros(width, width, 1, dims).requires_grad_() for _ in range(2))
        position = Position(tensors[0], *codes)
    scale = torch.ones(1, 1, 1, 1, 1)
    inputs = AttentionInputs(tensors[0], tensors[1], scale, position)
    seed = torch.tensor(1) if spec['dropout'] else None
    out = operator.triton_attention(inputs, tensors[2], spec['dropout'], seed)
    out.sum().backward()
    assert {name for name, _, _ in seen} == set(KERNELS)
    results = []
    for name, options, kernel in seen:
        cubin = kernel.asm['cubin']
        loops = inner_loops(dump('-sass', cubin))
        usage = re.search(r'REG:(\d+) STACK:(\d+)', dump('--dump-resource-usage', cubin))
        weights = options['BLOCK_M'] * options['BLOCK_N']
        opcodes = list(itertools.chain(*loops))
        # Where the index of the head is used: it is widened before anything is computed.
        ttir = kernel.asm['ttir']
        head = re.search(r'(%\w+) = tt.get_program_id y', ttir)[1]
        uses = [line for line in ttir.splitlines() if re.search(rf'[^\w]{head}\b', line)]
        results.append(
            dict(
                spec=spec,
                kernel=name,
                tail=options['TAIL'],
                down=options.get('DOWN', False),
                tile=[options['BLOCK_M'], options['BLOCK_N'], options['num_warps']],
                shared=kernel.metadata.shared,
                registers=int(usage[1]),
                stack=int(usage[2]),
                int64_heads=len(uses) > 1
                and all('to i64' in use for use in uses[1:])
                and 'arith.trunci' not in ttir,
                # Of all warps, for as many weights as a tile of 64 x 64 has: in the tiles
                # of rows and, if there are any in this kernel, of the tail.
                instructions=[
                    round(len(loop) * options['num_warps'] * 4096 / weights)
                    for loop in loops
                ],
                spills=sum(opcode in ('LDL', 'STL') for opcode in opcodes),
                tensor_cores=sum(opcode in ('HMMA', 'HGMMA') for opcode in opcodes),
            )
        )
    return results


def faults(kernel: dict) -> list[str]:
    """What is wrong with a compiled kernel."""
    spec = kernel['spec']
    half = spec['dtype'] != 'float32'
    most = SHARED[spec['arch']]
    if spec['arch'] < 90:  # which keeps more in shared memory, and has more
        needed = shared_bytes(spec['dims'], getattr(torch, spec['dtype']))
        most = min(most, needed)
    found = []
    if kernel['shared'] > most:
        found.append(f'takes {kernel["shared"]} bytes of shared memory, not {most}')
    if kernel['spills'] and spec['dims'] <= (128 if half else 64):
        found.append(f'spills registers in an inner loop ({kernel["spills"]})')
    if not kernel['int64_heads']:
        found.append('computes where a head starts in 32 bits')
    if (kernel['tensor_cores'] > 0) != half:
        found.append('uses tensor cores' if kernel['tensor_cores'] else 'uses none')
    return found


def every_kind() -> list[dict]:
    """The kinds of input that stand for all.

    First, with position and dropout, which take the most registers: all tiles of bfloat16
    and float32 on capability 8.0; then every dtype, capability and size of a head, with
    sizes between the powers of two, which need masks. Then the other tiles and options:
    float16 takes the same tiles as bfloat16, and capability 8.6 has the limits and the
    tiles of 8.9.
    """
    powers, between = (16, 32, 64, 128, 256, 512), (24, 48, 96)
    most = (97, True, 0.1)
    # The widths take tiles of 16, 32 and 64 keys with a tail, and of 64 without.
    others = [(width, True, 0.1) for width in (49, 25, 60)]
    others += [(97, True, 0.0), (97, False, 0.1), (97, False, 0.0)]
    two = ('bfloat16', 'float32')
    candidates = [
        *itertools.product(two, (80,), powers, [most, *others[:3]]),
        *itertools.product(
            ('bfloat16', 'float32', 'float16'), SHARED, powers + between, [most]
        ),
        *itertools.product(two, (80, 89, 90), powers, others),
    ]
    kinds = {}
    for dtype, arch, dims, (width, position, dropout) in candidates:
        numbers = getattr(torch, dtype)
        if dims > validation._MAX_HEAD_DIMS[numbers]:
            continue
        grid = (width, width) if position else (1, width * width)
        tiles = tile_options(dims, numbers, grid)
        # Two widths that are cut in the same tiles take the same code.
        code = arch, dtype, dims, position, dropout, tiles['BLOCK_N'], tiles['TAIL']
        spec = dict(
            arch=arch,
            dtype=dtype,
            dims=dims,
            width=width,
            position=position,
            dropout=dropout,
        )
        kinds.setdefault(code, spec)
    return list(kinds.values())


def compile_all(path: Path) -> int:
    """Compile what ``path`` does not have yet, and append it. Returns the exit code."""
    lines = path.read_text().splitlines() if path.exists() else []
    done = [json.loads(line) for line in lines]
    specs = every_kind()
    for i, spec in enumerate(specs):
        if any(kernel['spec'] == spec for kernel in done):
            continue
        print(f'{i}/{len(specs)} {spec}', file=sys.stderr, flush=True)
        new = [{**kernel, 'faults': faults(kernel)} for kernel in compiled(spec)]
        # All kernels of a kind at once: one that is interrupted is compiled again.
        with path.open('a') as file:
            file.write(''.join(json.dumps(kernel) + '\n' for kernel in new))
        done += new
    faulty = [kernel for kernel in done if kernel['faults']]
    print(f'{len(faulty)} of {len(done)} kernels are faulty', *faulty, sep='\n')
    return 1 if faulty else 0


if __name__ == '__main__':
    if sys.argv[1:2] == ['--all']:
        sys.exit(compile_all(Path(sys.argv[2])))
    for argument in sys.argv[1:]:
        for kernel in compiled(json.loads(argument)):
            print(json.dumps({**kernel, 'faults': faults(kernel)}), flush=True)
