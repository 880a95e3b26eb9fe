"""Check and measure the fused kernels on a GPU; see gpu_day.sh.

Every step runs in a process of its own, because a fault on a GPU spoils its process, and
writes row after row, so that a step that fails or runs out of time loses nothing. The steps
are in the order of their importance.
"""

import argparse
import contextlib
import functools
import itertools
import json
import math
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
#: Seconds that a step may take beyond its time before it is ended.
GRACE = 20


class Step:
    """What a step knows: its time, and where its rows go."""

    def __init__(self, name: str, out: Path, seconds: float, dry_run: bool) -> None:
        self.end = time.monotonic() + seconds
        self.path = rows_path(out, name)
        self.name, self.out, self.dry_run = name, out, dry_run
        self.device = 'cpu' if dry_run else 'cuda'

    def left(self) -> float:
        """Seconds until the step has to end."""
        return self.end - time.monotonic()

    def write(self, **row) -> None:
        with self.path.open('a') as file:
            file.write(json.dumps(row, default=str) + '\n')

    @contextlib.contextmanager
    def noting_failures(self, row: dict) -> Iterator[None]:
        """Write an exception down, and go on."""
        import torch

        try:
            yield
        except torch.cuda.OutOfMemoryError:
            row['failure'] = 'out of memory'
        except Exception as error:  # the compiler's and the driver's, which are many
            row['failure'] = f'{type(error).__name__}: {error}'[:300]

    def within_time(self, kinds: list, what: str) -> Iterator:
        """Each of ``kinds`` while there is time; shows and writes down what is left."""
        for i, kind in enumerate(kinds):
            if self.left() <= 0:
                self.write(note=f'no time for the last {len(kinds) - i} of {what}')
                return
            if not i % 10:
                show(f'{self.name}: {i}/{len(kinds)} {what}')
            yield kind


def show(text: str) -> None:
    print(f'[{time.strftime("%H:%M:%S")}] {text}', flush=True)


def rows_path(out: Path, name: str) -> Path:
    return out / f'{name}.jsonl'


def environment(step: Step) -> None:
    """The machine and the versions."""
    import torch
    import triton

    from mmgcnl.utils.provenance import provenance

    if not step.dry_run and not torch.cuda.is_available():
        sys.exit('no GPU is visible to torch; --dry-run goes as far as it can without one')
    row = dict(triton=triton.__version__, cuda=torch.version.cuda)
    if step.dry_run:
        row['device'] = 'none (dry run)'
    else:
        gpu = torch.cuda.get_device_properties(0)
        row.update(device=gpu.name, capability=f'{gpu.major}.{gpu.minor}')
        row['shared_memory'] = getattr(gpu, 'shared_memory_per_block_optin', None)
    step.write(**row, **provenance(step.device))


def memory(step: Step) -> None:
    """NVIDIA's compute-sanitizer: accesses beyond a tensor, races in shared memory."""
    tool = shutil.which('compute-sanitizer')
    usual = Path('/usr/local/cuda/bin/compute-sanitizer')
    if tool is None and not usual.exists():
        step.write(note='skipped: compute-sanitizer is not installed')
        return
    # Every tensor by itself, and not in a piece of memory with others.
    env = {**os.environ, 'PYTORCH_NO_CUDA_MEMORY_CACHING': '1'}
    for name in ('memcheck', 'racecheck'):
        log = step.out / f'{name}.log'
        left = max(1, step.left() * (0.5 if name == 'memcheck' else 1.0))
        command = [tool or usual, '--tool', name, '--error-exitcode', '86']
        command += ['--log-file', log, *own_command(step, 'sanitized', left)]
        row = dict(tool=name)
        try:
            run = subprocess.run(
                command, env=env, capture_output=True, text=True, timeout=left + GRACE / 2
            )
            row.update(exit=run.returncode, ok=run.returncode == 0)
            if not row['ok']:
                row['output'] = (run.stdout + run.stderr)[-1000:]
        except subprocess.TimeoutExpired:
            row['failure'] = 'ended, because no time was left'
        if log.exists():
            row['summary'] = log.read_text(errors='replace').strip()[-500:]
        kinds = rows_path(step.out, 'sanitized')
        lines = kinds.read_text().splitlines() if kinds.exists() else []
        checked = [kind for kind in map(json.loads, lines) if 'ok' in kind]
        row['kinds'] = len(checked)
        if not all(kind['ok'] for kind in checked):
            row.update(ok=False, failures=[kind for kind in checked if not kind['ok']])
        kinds.unlink(missing_ok=True)
        step.write(**row)


def sanitized(step: Step) -> None:
    """What compute-sanitizer watches: kinds of input of every tile."""
    import torch

    from mmgcnl.layers.attention.triton import validation
    from mmgcnl.layers.attention.triton.guarding import GuardedMemory

    # Padding would hide from it what is beyond a tensor.
    validation.guarded_outputs = lambda: contextlib.nullcontext(GuardedMemory())
    half, single = torch.float16, torch.float32
    kinds = [(half, 64, 64), (half, 32, 64), (single, 32, 32), (half, 32, 16)]
    kinds += [(half, 128, 64), (half, 32, 32), (half, 256, 32), (single, 64, 16)]
    if step.dry_run:
        kinds = [(single, 8, 16)]
    for dtype, dims, tile in step.within_time(kinds, 'kinds of input'):

        def error(dtype=dtype, dims=dims, tile=tile) -> float:
            device = torch.device(step.device)
            return validation._largest_error(device, dtype, dims, tile, True, True, True)

        check(step, dtype, dict(dims=dims, tile=tile), error)


def self_check(step: Step) -> None:
    """The check that a training makes: two processes at once, and one after them."""
    folders = dict(XDG_CACHE_HOME='verdicts', TRITON_CACHE_DIR='compiled')
    env = {**os.environ}
    for name, folder in folders.items():
        shutil.rmtree(step.out / folder, ignore_errors=True)
        env[name] = str(step.out / folder)
    path = step.out / 'checking.jsonl'
    path.unlink(missing_ok=True)
    for number, who in ((2, 'two at once'), (1, 'one after them')):
        command = own_command(step, 'checking', step.left())
        processes = [subprocess.Popen(command, env=env) for _ in range(number)]
        try:
            codes = [process.wait(max(1, step.left())) for process in processes]
        finally:
            for process in processes:
                process.kill()
        rows = [json.loads(line) for line in path.read_text().splitlines()][-number:]
        checks = sum(row['checks'] for row in rows)
        reasons = [row['reason'] for row in rows if row['reason']]
        step.write(
            processes=who,
            seconds=max(row['seconds'] for row in rows),
            checks=checks,
            reasons=reasons,
            ok=not any(codes) and not reasons and checks == number - 1,
        )


def checking(step: Step) -> None:
    """What each process of the step self_check does."""
    import torch

    from mmgcnl.layers.attention.triton import validation, verdicts

    compare, calls = validation.compare_in_child, []

    def counted(*args) -> str | None:
        calls.append(args)
        return compare(*args)

    validation.compare_in_child = counted
    began = time.monotonic()
    if step.dry_run:  # the interpreter needs no check in another process
        kind = dict(dtype='float32', dims=8, tile=16, tail=False)
        kind.update(position=True, dropout=False)
        reason = verdicts.shared_verdict(
            verdicts.verdict_folder(), kind, 'a kind', lambda: counted('cpu', kind)
        )
    else:
        kind = torch.float16, 32, 64, True, True, True
        reason = validation.validate_kernels('cuda:0', *kind)
    seconds = round(time.monotonic() - began, 1)
    step.write(seconds=seconds, checks=len(calls), reason=reason)


def exactness(step: Step) -> None:
    """Output and gradients against the dense reference in float64."""
    import torch

    # Half precision first: there, GPUs of capability 9.0 and later run other instructions
    # (wgmma, tcgen05) than those before. The interpreter has no bfloat16 matrix product.
    dtypes = (torch.float16, torch.float32)
    if not step.dry_run:
        dtypes = (torch.bfloat16, *dtypes)
    sizes = [(5, 7)] if step.dry_run else [(60, 60), (97, 97)]
    for size, dtype in step.within_time(list(itertools.product(sizes, dtypes)), 'sizes'):

        def error(size=size, dtype=dtype) -> float:
            return error_of(size, dtype, step.device)

        check(step, dtype, dict(size='x'.join(map(str, size)), dims=32), error)
    check_tiles(step, dtypes)


def check(step: Step, dtype, kind: dict, error: Callable[[], float]) -> None:
    """Write the largest relative error of a kind of input, or how it failed."""
    from mmgcnl.layers.attention.triton import operator, validation

    limit = validation._MAX_ERRORS[dtype]
    row = dict(dtype=str(dtype), **kind, limit=limit)
    before, seen = operator.load_kernels, Inspected(operator.load_kernels())
    operator.load_kernels = lambda: seen
    try:
        row['error'] = error()
        row['ok'] = row['error'] <= limit
        row['instructions'] = ' '.join(sorted(seen.instructions))
    except Exception as exception:  # the compiler's and the driver's, which are many
        row.update(ok=False, failure=f'{type(exception).__name__}: {exception}'[:500])
    finally:
        operator.load_kernels = before
    step.write(**row)


class Inspected:
    """Stands in for the module of the kernels: notes their matrix instructions."""

    def __init__(self, module) -> None:
        self.module, self.instructions = module, set()

    def __getattr__(self, name: str) -> 'Inspected.Kernel':
        return Inspected.Kernel(self, name)

    class Kernel:
        def __init__(self, inspected: 'Inspected', name: str) -> None:
            self.inspected, self.name = inspected, name

        def __getitem__(self, grid: tuple) -> Callable:
            def launch(*args, **options):
                kernel = getattr(self.inspected.module, self.name)
                compiled = kernel[grid](*args, **options)
                if compiled is not None:  # the interpreter compiles nothing
                    found = re.findall(r'\b(wgmma|tcgen05|mma)\.', compiled.asm['ptx'])
                    self.inspected.instructions.update(found)

            return launch


def error_of(
    size: tuple[int, int],
    dtype,
    device: str,
    function: Callable | None = None,
    dropout_p: float = 0.1,
    training: bool = True,
) -> float:
    """The largest error over a map of ``size`` with two heads and position.

    That of the fused kernels, or of another ``function`` of the same arguments; of the
    output and, with ``training``, of all gradients.
    """
    import torch

    from mmgcnl.layers.attention import AttentionInputs, Position
    from mmgcnl.layers.attention.reference import dense_attention
    from mmgcnl.layers.attention.triton import triton_attention

    seed = torch.tensor(1, device=device) if dropout_p else None
    functions = ((dense_attention, True), (function or triton_attention, False))
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, 2, *size, 32)] * 3 + [(n, n, 2, 32) for n in size]
    tensors = [torch.randn(shape, generator=generator) for shape in shapes]
    tensors = [t.to(dtype) for t in tensors[:3]] + [t / 32 for t in tensors[3:]]
    weight = torch.randn(shapes[0], generator=generator).to(device)
    results = []
    for function, double in functions:
        leaves = [(t.double() if double else t).to(device) for t in tensors]
        query, key, value, *codes = (leaf.requires_grad_(training) for leaf in leaves)
        scale = torch.full((1, 1, 1, 1, 1), 32**-0.5, device=device)
        scale = scale.to(torch.float64 if double else torch.float32)
        inputs = AttentionInputs(query, key, scale, Position(query, *codes))
        out = function(inputs, value, dropout_p, seed)
        grads = ()
        if training:
            grads = torch.autograd.grad((out * weight.to(out)).sum(), leaves)
        results.append([t.double() for t in (out.detach(), *grads)])
    return max(float((a - b).norm() / a.norm()) for a, b in zip(*results))


def check_tiles(step: Step, dtypes: tuple) -> None:
    """The comparison that users' first forward pass makes, for every kind of input."""
    import torch

    from mmgcnl.layers.attention.triton import validation
    from mmgcnl.layers.attention.triton.tiles import tile_options

    kinds = []
    for d in (8,) if step.dry_run else (32, 64, 128, 256, 16, 24, 96, 512):
        for dtype in dtypes:
            if d > validation._MAX_HEAD_DIMS[dtype]:
                continue
            grids = itertools.product((1, 3, 33, 97), range(1, 130))
            options = (tile_options(d, dtype, grid) for grid in grids)
            tiles = sorted({(o['BLOCK_N'], o['TAIL']) for o in options}, reverse=True)
            kinds += [(dtype, d, *tile, True, True) for tile in tiles]
    # The kinds with less are parts of these, and follow them. Without position, there are
    # no columns, and so no tail.
    flags = ((True, False), (False, True), (False, False))
    kinds += [
        (*kind[:4], *flag)
        for flag, kind in itertools.product(flags, kinds)
        if flag[0] or not kind[3]
    ]
    names = ('dims', 'tile', 'tail', 'position', 'dropout')
    device = torch.device(step.device)
    if step.dry_run:
        kinds = kinds[:1]
    for dtype, *kind in step.within_time(kinds, 'kinds of input'):

        def error(dtype=dtype, kind=kind) -> float:
            return validation._largest_error(device, dtype, *kind)

        check(step, dtype, dict(zip(names, kind)), error)


def tests(step: Step) -> None:
    """The tests of the layers and, with mmdet and mmseg, of training in half precision."""
    missing = [name for name in ('pytest', 'hypothesis') if find_spec(name) is None]
    if missing:
        step.write(note=f'skipped: {" and ".join(missing)} cannot be imported')
        return
    command = [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider']
    command += ['--collect-only'] if step.dry_run else []
    command += ['tests/test_layers']
    if find_spec('mmseg') and find_spec('mmdet'):
        command.append('tests/test_tools/test_precision.py')
    else:
        step.write(note='without mmseg and mmdet: only tests/test_layers')
    log = step.out / 'pytest.log'
    with log.open('w') as file:
        try:
            status = subprocess.run(
                command, cwd=REPO, stdout=file, stderr=file, timeout=max(1, step.left())
            ).returncode
        except subprocess.TimeoutExpired:
            status = None
            step.write(note='the tests were ended, because no time was left')
    lines = log.read_text().splitlines()
    step.write(
        command=' '.join(['python', *command[1:]]),
        exit=status,
        ok=None if status is None else status == 0,
        summary=next((line for line in reversed(lines) if line.strip()), ''),
        failed=[line for line in lines if re.match('FAILED|ERROR', line)][:50],
    )


def measure(step: Step, function: Callable[[], object]) -> dict:
    """Median milliseconds, and by how many MiB the peak of memory grows."""
    import torch

    function()
    if step.dry_run:
        return dict(ms=None, MiB=None)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    times, began = [], time.monotonic()
    while len(times) < 3 or (len(times) < 20 and time.monotonic() - began < 2):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        function()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    peak = torch.cuda.max_memory_allocated() - before
    return dict(ms=statistics.median(times), MiB=peak / 2**20, runs=len(times))


FLOOR = 'floor: SDPA'
ONE_HOT, FLEX = 'one-hot SDPA', 'FlexAttention'


def one_hot_sdpa(inputs, value, dropout_p: float = 0.0, seed=None):
    """Position as channels: [scale q, rows, columns] . [k, one-hot y, one-hot x].

    The weights that dropout keeps are others than those of the other implementations.
    """
    import torch
    import torch.nn.functional as F

    query, key, content_scale, position = inputs
    queries, keys = [query * content_scale], [key]
    if position is not None:
        rows, columns = position.tables()
        y, x = (torch.eye(n, device=key.device) for n in key.shape[2:4])
        queries += [t.expand(*query.shape[:4], -1) for t in (rows, columns)]
        y, x = y[:, None].expand(-1, len(x), -1), x.expand(len(y), -1, -1)
        keys += [t.expand(*key.shape[:2], -1, -1, -1) for t in (y, x)]
    # All kernels of PyTorch take channels in multiples of 8.
    padding = -sum(t.shape[-1] for t in keys) % 8
    query, key = (
        F.pad(torch.cat([t.to(value.dtype) for t in parts], -1), (0, padding)).flatten(2, 3)
        for parts in (queries, keys)
    )
    out = F.scaled_dot_product_attention(
        query, key, value.flatten(2, 3), dropout_p=dropout_p, scale=1.0
    )
    return out.unflatten(2, inputs.query.shape[2:4])


@functools.cache
def compiled_flex_attention(compiled: bool) -> Callable:
    import torch
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention) if compiled else flex_attention


def flex(inputs, value, dropout_p: float = 0.0, seed=None):
    """PyTorch's FlexAttention, which has no dropout."""
    if dropout_p:
        raise NotImplementedError('FlexAttention has no dropout')
    query, key, content_scale, position = inputs
    width, modify = key.shape[3], None
    if position is not None:
        rows, columns = (t.expand(*query.shape[:4], -1) for t in position.tables())
        rows, columns = rows.flatten(2, 3), columns.flatten(2, 3)

        def modify(score, b, head, q, k):
            return score + rows[b, head, q, k // width] + columns[b, head, q, k % width]

    attend = compiled_flex_attention(query.is_cuda)
    query, key, value = (
        t.flatten(2, 3) for t in ((query * content_scale).to(value.dtype), key, value)
    )
    out = attend(query, key, value, score_mod=modify, scale=1.0)
    return out.unflatten(2, inputs.query.shape[2:4])


def contenders(channels: int, num_heads: int) -> dict[str, Callable]:
    """How to make each block that is measured, the floor first."""
    import torch.nn.functional as F

    from mmgcnl.layers import IMPLEMENTATIONS, GCNonLocal2d

    IMPLEMENTATIONS.update({ONE_HOT: one_hot_sdpa, FLEX: flex})

    class Floor(GCNonLocal2d):
        """With scaled_dot_product_attention: neither context nor position."""

        def forward(self, x):
            q, k, v = (
                self._split_heads(conv(x)).flatten(2, 3)
                for conv in (self.query, self.key, self.value)
            )
            y = F.scaled_dot_product_attention(q, k, v)
            return x + self.out(y.transpose(2, 3).reshape(x.shape[0], -1, *x.shape[2:]))

    plain = dict(num_heads=num_heads, reduction=1)
    none = dict(context=None, position=None, attn_drop_rate=0.0)
    ours = dict(plain, implementation='triton')
    blocks = {
        FLOOR: lambda: Floor(channels, **none, **plain),
        'ours': lambda: GCNonLocal2d(channels, attn_drop_rate=0.0, **ours),
        'ours, dropout 0.1': lambda: GCNonLocal2d(channels, attn_drop_rate=0.1, **ours),
        'ours, no priors': lambda: GCNonLocal2d(channels, **none, **ours),
    }
    for name in (ONE_HOT, FLEX, 'blockwise'):
        blocks[f'ours, {name}'] = lambda name=name: GCNonLocal2d(
            channels, attn_drop_rate=0.0, **plain, implementation=name
        )
    blocks[f'ours, {ONE_HOT}, dropout 0.1'] = lambda: GCNonLocal2d(
        channels, attn_drop_rate=0.1, **plain, implementation=ONE_HOT
    )
    if find_spec('mmcv') is not None:
        from mmcv.cnn.bricks import GeneralizedAttention

        blocks['GeneralizedAttention'] = lambda: GeneralizedAttention(
            channels, num_heads=num_heads, kv_stride=1, attention_type='1111'
        )
    return blocks


def can_train(step: Step, name: str) -> bool:
    """FlexAttention has no gradients on a CPU."""
    return not (step.dry_run and FLEX in name)


def blocks(step: Step) -> None:
    """Time and memory of whole blocks, 2 x 256 channels, 8 heads, over the floor."""
    import torch

    images, channels, num_heads = (1, 16, 2) if step.dry_run else (2, 256, 8)
    sizes = [(5, 7)] if step.dry_run else [(97, 97), (60, 60), (128, 256)]
    made = contenders(channels, num_heads)
    if 'GeneralizedAttention' not in made:
        step.write(note='without mmcv: no GeneralizedAttention')
    dtypes = (torch.bfloat16, torch.float16, torch.float32)
    if step.dry_run:
        # The interpreter has no bfloat16 matrix product; a CPU has no half convolution
        # everywhere.
        dtypes = (torch.float32,)
    # Without training there is no dropout.
    kinds = [
        kind
        for kind in itertools.product(dtypes, sizes, (True, False), made)
        if (can_train(step, kind[3]) if kind[2] else 'dropout' not in kind[3])
    ]
    # It is compiled for each size; the others must not lose that time.
    kinds.sort(key=lambda kind: FLEX in kind[3])
    floor, times = {}, {}
    for dtype, size, training, name in step.within_time(kinds, 'blocks'):
        row = dict(block=name, size='x'.join(map(str, size)), dtype=str(dtype))
        row['pass'] = 'forward and backward' if training else 'forward'
        with step.noting_failures(row):
            torch.manual_seed(0)
            block = made[name]().to(step.device, dtype).train(training)
            x = torch.randn(images, channels, *size, device=step.device, dtype=dtype)
            x.requires_grad_(training)

            def run(block=block, x=x, training=training) -> None:
                with torch.set_grad_enabled(training):
                    out = block(x)
                if training:
                    out.sum().backward()

            row.update(measure(step, run))
            if name == FLOOR:
                floor[dtype, size, training] = row
            of_floor = floor.get((dtype, size, training))
            if of_floor and row['ms']:
                row['time over the floor'] = row['ms'] / of_floor['ms']
                row['memory over the floor'] = row['MiB'] / of_floor['MiB']
            if row['ms'] and name in ('ours', f'ours, {ONE_HOT}', f'ours, {FLEX}'):
                times.setdefault((dtype, size, training), {})[name] = row['ms']
        fused = name in ('ours', 'ours, dropout 0.1', 'ours, no priors')
        if fused and row.get('failure', 'out of memory') != 'out of memory':
            row['ok'] = False
        block = x = run = None
        if not step.dry_run:
            torch.cuda.empty_cache()
        step.write(**row)
    fastest = [min(found, key=found.get) for found in times.values() if len(found) > 1]
    counts = {name: fastest.count(name) for name in dict.fromkeys(fastest)}
    step.write(note=f'fastest with position, without dropout: {counts}')
    functions = ((ONE_HOT, one_hot_sdpa), (FLEX, flex))
    kinds = list(itertools.product(functions, dtypes))
    for (name, function), dtype in step.within_time(kinds, 'contenders'):
        size = (3, 5) if step.dry_run else (24, 24)
        row = dict(block=name, size='x'.join(map(str, size)), dtype=str(dtype))
        with step.noting_failures(row):
            row['error'] = error_of(
                size, dtype, step.device, function, 0.0, training=can_train(step, name)
            )
        step.write(**row)


def training(step: Step) -> None:
    """The probe, with --amp: losses are finite and fall, and the kernels are used."""
    import torch

    if find_spec('mmseg') is None or find_spec('mmcv') is None:
        step.write(note='skipped: mmseg cannot be imported')
        return
    data = step.out / 'probe_data'
    if not data.exists():
        show('training: draw the scenes of the probe')
        command = [sys.executable, 'tools/probe.py', 'data', '--out', str(data)]
        # Its progress bar would fill the log.
        subprocess.run(command, cwd=REPO, check=True, stdout=subprocess.DEVNULL)
    iterations, interval = (2, 1) if step.dry_run else (150, 10)
    env = {**os.environ, 'PROBE_ROOT': str(data)}
    # Without a GPU there is no training in float16.
    kinds = [('bf16', 1)] if step.dry_run else [('fp16', 1), ('bf16', 1)]
    if step.dry_run or torch.cuda.device_count() > 1:
        kinds.append(('bf16', 2))
    else:
        step.write(note='no training of two processes: it needs two GPUs')
    for kind, number in kinds:
        what = f'{iterations} iterations, --amp {kind}, {number} process(es)'
        show(f'training: {what}')
        folder = step.out / f'training_{kind}_{number}'
        config = 'configs/probe/gcnl_probe.py'
        command = [sys.executable, 'tools/train.py', config]
        if number > 1:
            command = ['bash', 'tools/dist_train.sh', config, str(number)]
            env.update(PYTHON=sys.executable, PORT=str(free_port()))
        command += ['--amp', kind, '--work-dir', str(folder), '--cfg-options']
        command += [f'train_cfg.max_iters={iterations}', 'train_cfg.val_interval=9999']
        command += [f'default_hooks.logger.interval={interval}']
        before = set(folder.glob('*/vis_data/scalars.json'))
        done = subprocess.run(command, cwd=REPO, env=env, capture_output=True, text=True)
        output = done.stdout + done.stderr
        row = dict(amp=kind, processes=number, iterations=iterations, exit=done.returncode)
        losses = []
        for log in set(folder.glob('*/vis_data/scalars.json')) - before:
            lines = map(json.loads, log.read_text().splitlines())
            losses += [line['loss'] for line in lines if 'loss' in line]
        fell = step.dry_run or losses[-1:] < losses[:1]
        used = "implementation='triton' is not used" not in output
        finite = bool(losses) and all(map(math.isfinite, losses))
        row.update(first=losses[:1], last=losses[-1:], finite=finite, kernels_used=used)
        row['ok'] = done.returncode == 0 and finite and fell and used
        if not row['ok']:
            row['output'] = output[-2000:]
        step.write(**row)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(('127.0.0.1', 0))
        return found.getsockname()[1]


class CpuEvent:
    """What of torch.cuda.Event is used here, for the interpreter."""

    def record(self) -> None:
        self.time = time.perf_counter()

    def elapsed_time(self, end: 'CpuEvent') -> float:
        return 1e3 * (end.time - self.time)


class Timed:
    """Stands in for the module of the kernels: notes time and memory of each launch.

    A kernel that cannot be launched is noted, and the others go on.

    Args:
        module: That of the kernels.
        event: Makes an event, as torch.cuda.Event.
    """

    def __init__(self, module, event: Callable) -> None:
        self.module, self.event = module, event
        self.launches, self.failures = {}, {}

    def clear(self) -> None:
        self.launches, self.failures = {}, {}

    def __getattr__(self, name: str) -> 'Timed.Kernel':
        return Timed.Kernel(self, name)

    class Kernel:
        def __init__(self, timed: 'Timed', name: str) -> None:
            self.timed, self.name = timed, name

        def __getitem__(self, grid: tuple) -> Callable:
            return lambda *args, **options: self.launch(grid, args, options)

        def launch(self, grid: tuple, args: tuple, options: dict) -> None:
            kind = self.name.removesuffix('_kernel')
            kind += '_tail' if options.get('DOWN') else ''
            start, end = self.timed.event(), self.timed.event()
            start.record()
            try:
                compiled = getattr(self.timed.module, self.name)[grid](*args, **options)
            except Exception as error:  # most often, that it does not fit
                self.timed.failures[kind] = f'{type(error).__name__}: {error}'[:150]
                return
            end.record()
            shared = 0 if compiled is None else compiled.metadata.shared
            self.timed.launches.setdefault(kind, []).append((start, end, shared))


def tuning(step: Step) -> None:
    """Time of other tiles than those of the code; entries for its table of tiles."""
    import torch

    from mmgcnl.layers.attention.triton import operator, tiles

    date = time.strftime('%Y-%m-%d')
    dtypes = (torch.bfloat16, torch.float16, torch.float32)
    inputs = list(itertools.product((32, 64, 128), dtypes))
    size = 97, 97
    # The first are those of most of the code's own.
    sizes = list(itertools.product((64, 128, 32), (4, 8), (2, 3, 1)))
    if step.dry_run:
        step.write(note='dry run: the times are those of the interpreter')
        gpu, capability, event = 'none (dry run)', (0, 0), CpuEvent
        inputs, size, sizes = [(8, torch.float32)], (3, 33), [(64, 4, 1), (128, 4, 1)]
        operator._capability = lambda device: capability
    else:
        gpu, capability = torch.cuda.get_device_name(), torch.cuda.get_device_capability()
        event = functools.partial(torch.cuda.Event, enable_timing=True)
    timed = Timed(operator.load_kernels(), event)
    operator.load_kernels = lambda: timed
    tiles.MEASURED.clear()  # compared with what was counted
    for dims, dtype in step.within_time(inputs, 'inputs'):
        keys = {}
        for kernel in ('forward', 'query_gradient', 'key_gradient', 'key_gradient_tail'):
            option = tiles.tile_options(dims, dtype, size, kernel)
            tile = option['BLOCK_D'], option['BLOCK_N']
            keys[kernel] = (capability, dtype, *tile, kernel)
        counted = time_kernels(step, dims, dtype, size, timed)
        # What gains less than 3 % may be noise.
        best = {kernel: 0.97 * ms for kernel, (ms, _) in counted.items()}
        entries = {}
        for m, warps, stages in step.within_time(sizes, f'tiles: {dtype}, d = {dims}'):
            tried = tiles.Measured(m, warps, stages, 0, gpu, date)
            tiles.MEASURED.update(dict.fromkeys(keys.values(), tried))
            found = time_kernels(step, dims, dtype, size, timed)
            row = dict(dtype=str(dtype), dims=dims, BLOCK_M=m, warps=warps, stages=stages)
            row.update({kernel: ms for kernel, (ms, _) in found.items()})
            step.write(**row, **timed.failures)
            for kernel, (ms, shared) in found.items():
                if ms < best.get(kernel, 0.0):
                    best[kernel] = ms
                    entries[kernel] = tried._replace(shared_bytes=shared)
        tiles.MEASURED.clear()
        tiles.MEASURED.update({keys[k]: entry for k, entry in entries.items()})
        if entries:
            write_entries(step, keys, entries, best, counted, size)
        else:
            step.write(note=f'{dtype}, d = {dims}: nothing is faster by 3 %')
        tiles.MEASURED.clear()


def time_kernels(
    step: Step, dims: int, dtype, size: tuple[int, int], timed: Timed
) -> dict[str, tuple[float, int]]:
    """Milliseconds and bytes of shared memory of each kernel, for 2 images and 8 heads.

    The time is the sum of that without dropout and with it; the memory is the larger one.
    """
    import torch

    from mmgcnl.layers.attention import AttentionInputs, Position
    from mmgcnl.layers.attention.triton import triton_attention

    images, heads, turns = (1, 1, 1) if step.dry_run else (2, 8, 8)
    wait = (lambda: None) if step.dry_run else torch.cuda.synchronize
    torch.manual_seed(0)
    query, key, value = (
        torch.randn(
            images, heads, *size, dims, device=step.device, dtype=dtype
        ).requires_grad_()
        for _ in range(3)
    )
    codes = (torch.randn(n, n, heads, dims, device=step.device) / dims for n in size)
    position = Position(query, *(code.requires_grad_() for code in codes))
    scale = torch.full((1, 1, 1, 1, 1), dims**-0.5, device=step.device)
    inputs = AttentionInputs(query, key, scale, position)
    found = []
    failures = {}
    for dropout_p in (0.0, 0.1):
        seed = torch.tensor(1, device=step.device) if dropout_p else None
        for turn in range(turns):
            if turn < 2:  # the first one compiles
                wait()
                timed.clear()
            triton_attention(inputs, value, dropout_p, seed).sum().backward()
        wait()
        failures |= timed.failures
        found.append(
            {
                kind: (statistics.median(a.elapsed_time(b) for a, b, _ in runs), runs[0][2])
                for kind, runs in timed.launches.items()
            }
        )
    timed.failures = failures
    without, with_dropout = found
    return {
        kind: (
            without[kind][0] + with_dropout[kind][0],
            max(without[kind][1], with_dropout[kind][1]),
        )
        for kind in without.keys() & with_dropout.keys()
    }


def write_entries(
    step: Step, keys: dict, entries: dict, best: dict, counted: dict, size: tuple
) -> None:
    """Write the entries for the table of tiles, and whether the kernels are exact so."""
    import torch

    from mmgcnl.layers.attention.triton import tiles, validation

    # Heads that fill BLOCK_D: those that were timed.
    _, dtype, dims, tile, _ = keys['forward']
    tail = tiles.tile_options(dims, dtype, size)['TAIL']
    device = torch.device(step.device)
    error = max(
        validation._largest_error(device, dtype, dims, tile, tail, True, dropout)
        for dropout in (False, True)
    )
    for kernel, entry in entries.items():
        step.write(
            entry=f'{keys[kernel]}: {entry},',
            ms=best[kernel],
            ms_counted=counted[kernel][0],
            error=error,
            ok=error <= validation._MAX_ERRORS[dtype],
        )


#: The steps and the minutes that they may take of 25; tuning takes what is left.
STEPS = {
    environment: 1,
    memory: 3,
    exactness: 4,
    self_check: 2,
    blocks: 5,
    tests: 4,
    training: 4,
    tuning: 25,
}
#: What steps run as processes of their own.
PARTS = ('sanitized', 'checking')


def own_command(options: Step | argparse.Namespace, name: str, seconds: float) -> list:
    """The command of another step, with the same options."""
    command = [sys.executable, __file__, '--out', str(options.out), '--step', name]
    command += ['--seconds', str(seconds)] + (['--dry-run'] if options.dry_run else [])
    return command


def run_step(name: str, seconds: float, args: argparse.Namespace) -> dict:
    """Run a step in its own process, and return its status and its rows."""
    path = rows_path(args.out, name)
    path.unlink(missing_ok=True)
    env = {key: value for key, value in os.environ.items() if key != 'TRITON_INTERPRET'}
    if args.dry_run:
        env.update(TRITON_INTERPRET='1', CUDA_VISIBLE_DEVICES='')
    command = own_command(args, name, seconds)
    log = args.out / f'{name}.log'
    began = time.monotonic()
    with log.open('w') as file:
        child = subprocess.Popen(command, env=env, stderr=file, start_new_session=True)
        try:
            code = child.wait(seconds + GRACE)
            status = 'done' if code == 0 else f'failed with exit code {code}'
        except subprocess.TimeoutExpired:
            status = f'ended after {seconds + GRACE:.0f} s'
        finally:
            # With what it has started; also when the user interrupts.
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
    result = dict(status=status, seconds=round(time.monotonic() - began))
    if status != 'done':
        result['log'] = log.read_text(errors='replace')[-2000:]
    lines = path.read_text().splitlines() if path.exists() else []
    return dict(result, rows=[json.loads(line) for line in lines])


def page(result: dict) -> str:
    """The results as Markdown."""
    text = f'# The fused kernels on {result["device"]}, {result["date"]}\n'
    for name, step in result['steps'].items():
        purpose = globals()[name].__doc__.splitlines()[0]
        text += f'\n## {name}\n\n{purpose} {step["status"]}, {step["seconds"]} s.\n'
        rows = step['rows']
        for row in rows:
            if 'note' in row:
                text += f'\n- {row["note"]}'
        entries = [row['entry'] for row in rows if 'entry' in row and row['ok']]
        if entries:
            text += '\n\nFor `MEASURED` in mmgcnl/layers/attention/triton/tiles.py:\n\n'
            text += '```python\n' + '\n'.join(entries) + '\n```\n'
        text += '\n' + table([row for row in rows if not row.keys() & {'note', 'entry'}])
        if 'log' in step:
            text += f'\n```\n{step["log"]}\n```\n'
    return text


def table(rows: list[dict]) -> str:
    keys = list(dict.fromkeys(key for row in rows for key in row))
    if not keys:
        return ''
    lines = [keys, ['---'] * len(keys)]
    lines += [[cell(row.get(key, '')) for key in keys] for row in rows]
    return '\n' + '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines) + '\n'


def cell(value: object) -> str:
    text = f'{value:.3g}' if isinstance(value, float) else str(value)
    return re.sub(r'\s+', ' ', text).replace('|', '\\|')


def faults(result: dict) -> list[str]:
    """What is wrong, in a line each. What was skipped or not reached is not."""
    found = []
    for name, step in result['steps'].items():
        if step['status'].startswith(('failed', 'ended')):
            found.append(f'{name} {step["status"]}')
        wrong = sum(row.get('ok') is False for row in step['rows'])
        if wrong:
            found.append(f'{name}: {wrong} of {len(step["rows"])} are not as they must be')
    return found


def run_all(args: argparse.Namespace) -> int:
    args.out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + args.minutes * 60
    result = dict(device='?', date=time.strftime('%Y-%m-%d'), command=sys.argv, steps={})
    for function, minutes in STEPS.items():
        name = function.__name__
        if function is not environment and name not in args.steps:
            continue
        seconds = min(minutes * 60 * args.minutes / 25, end - time.monotonic() - GRACE)
        if seconds < GRACE:
            step = dict(status='Not reached: no time was left', seconds=0, rows=[])
        else:
            show(f'{name}: at most {seconds / 60:.1f} minutes')
            step = run_step(name, seconds, args)
        result['steps'][name] = step
        if function is environment and step['rows']:
            result['device'] = step['rows'][0]['device']
        show(f'{name}: {step["status"]}')
        # After every step, so that nothing is lost.
        (args.out / 'gpu_day.json').write_text(json.dumps(result, indent=1))
        (args.out / 'gpu_day.md').write_text(page(result))
        if function is environment and step['status'] != 'done':
            print(step.get('log', ''), file=sys.stderr)
            return 1
    found = faults(result)
    print('\n'.join([*found, f'see {args.out / "gpu_day.md"}']))
    return 1 if found else 0


def main(argv: list[str] | None = None) -> int:
    names = [function.__name__ for function in STEPS]
    parser = argparse.ArgumentParser(
        description='Check and measure the fused kernels on a GPU.'
    )
    parser.add_argument(
        '--out',
        type=Path,
        default=REPO / 'work_dirs/gpu_day',
        help='folder of the results; default: work_dirs/gpu_day',
    )
    parser.add_argument(
        '--minutes', type=float, default=25, help='for all steps; default: %(default)s'
    )
    parser.add_argument(
        '--steps',
        nargs='+',
        choices=names,
        default=names,
        metavar='STEP',
        help=f'only these of {", ".join(names)}',
    )
    parser.add_argument(
        '--dry-run',
        action='store_true',
        help='tiny sizes, in the interpreter without a GPU',
    )
    parser.add_argument('--step', choices=(*names, *PARTS), help=argparse.SUPPRESS)
    parser.add_argument('--seconds', type=float, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    args.out = args.out.resolve()
    if args.step is None:
        return run_all(args)
    globals()[args.step](Step(args.step, args.out, args.seconds, args.dry_run))
    return 0


if __name__ == '__main__':
    sys.exit(main())
