"""Time and memory of contenders, each in a process of its own, turn by turn.

On a machine that others use too, absolute times drift within minutes. What is to be
compared is therefore measured in turns, and read as ratios of medians.
"""

from __future__ import annotations

import ctypes
import gc
import json
import statistics
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from mmengine.utils import ProgressBar
from torch import Tensor, nn

from mmgcnl.utils.cli import positive_int

MIB = 2**20
#: Makes, in its own process, the step that is to be measured.
Build = Callable[[], Callable[[], object]]


@dataclass(frozen=True)
class Measurement:
    """What a contender took.

    Attributes:
        seconds: Of each repeat.
        mib: Growth of the process's peak memory in each repeat (of the GPU's, on a GPU).
        error: Why there is nothing of the above, or None.
    """

    seconds: list[float]
    mib: list[float]
    error: str | None = None

    @property
    def median_seconds(self) -> float:
        return statistics.median(self.seconds) if self.seconds else float('nan')

    @property
    def median_mib(self) -> float:
        return statistics.median(self.mib) if self.mib else float('nan')


def measure(
    contenders: Mapping[str, Build], repeats: int = 5, threads: int | None = None
) -> dict[str, Measurement]:
    """Run each contender's step ``repeats`` times, in turns, after one to warm up.

    Args:
        contenders: For each name what builds its step; must be picklable.
        repeats: How many are counted.
        threads: Threads of each process; None leaves PyTorch's choice.

    Returns:
        The measurements. A contender that fails, or whose process dies, has an error.
    """
    context = get_context('spawn')
    workers = {}
    for name, build in contenders.items():
        here, there = context.Pipe()
        worker = context.Process(target=_work, args=(there, build, threads), daemon=True)
        worker.start()
        there.close()
        workers[name] = (worker, here)
    found = {name: Measurement([], []) for name in contenders}
    bar = ProgressBar(len(contenders) * (repeats + 1))
    try:
        for turn in range(repeats + 1):
            for name, (worker, pipe) in workers.items():
                if found[name].error is None:
                    result = _ask(pipe, worker)
                    if isinstance(result, str):
                        found[name] = Measurement([], [], result)
                    elif turn:
                        found[name].seconds.append(result[0])
                        found[name].mib.append(result[1] / MIB)
                bar.update()
    finally:
        print()
        for worker, pipe in workers.values():
            pipe.close()
            worker.terminate()
            worker.join()
    return found


def _ask(pipe: Connection, worker) -> tuple[float, int] | str:  # type: ignore[no-untyped-def]
    try:
        pipe.send(None)
        return pipe.recv()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        worker.join()
        return f'its process ended with code {worker.exitcode} (out of memory?)'


def _work(pipe: Connection, build: Build, threads: int | None) -> None:
    step: Callable[[], object] | None = None
    while True:
        try:
            pipe.recv()
        except EOFError:
            return
        try:
            if step is None:
                if threads is not None:
                    torch.set_num_threads(threads)
                step = build()
            pipe.send(_measure_once(step))
        except Exception as error:  # whatever a contender fails with is its result
            pipe.send(f'{type(error).__name__}: {str(error).splitlines()[0]}')


def _measure_once(step: Callable[[], object]) -> tuple[float, int]:
    """Seconds, and bytes by which the peak grew."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        # What was freed goes back to the system, or it would hide growth.
        ctypes.CDLL(None).malloc_trim(0)
        Path('/proc/self/clear_refs').write_text('5')  # the peak starts anew
        before = _status('VmRSS')
    start = time.perf_counter()
    step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    after = (
        torch.cuda.max_memory_allocated() if torch.cuda.is_available() else _status('VmHWM')
    )
    return seconds, after - before


def _status(field: str) -> int:
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith(f'{field}:'):
            return int(line.split()[1]) * 1024
    raise RuntimeError(
        f'/proc/self/status has no {field}: memory is measured on Linux only'
    )


def module_step(
    build: Callable[[], nn.Module],
    shapes: Sequence[Sequence[int]],
    mode: str,
    device: str,
    dtype: str = 'float32',
) -> Callable[[], object]:
    """One pass of a module: forward alone, or forward and backward.

    Args:
        build: Makes the module. All its weights become random: zero ones may be skipped.
        shapes: Of its input, or of the inputs that it takes as one list.
        mode: 'infer' or 'train'.
        device: Such as 'cpu'.
        dtype: 'float32', or the one of autocast.
    """
    torch.manual_seed(0)
    module = build().to(device).train(mode == 'train')
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.02)
    inputs = [
        torch.randn(*shape, device=device, requires_grad=mode == 'train')
        for shape in shapes
    ]
    args = inputs if len(inputs) == 1 else [inputs]
    autocast = torch.autocast(
        device, getattr(torch, dtype), enabled=dtype != 'float32', cache_enabled=False
    )

    def step() -> None:
        with torch.set_grad_enabled(mode == 'train'), autocast:
            out = module(*args)
        if mode == 'train':
            outs: list[Tensor] = [out] if isinstance(out, Tensor) else list(out)
            torch.autograd.backward(outs, [torch.ones_like(o) for o in outs])
            module.zero_grad(set_to_none=True)
            for x in inputs:
                x.grad = None

    return step


def module_contender(build: Callable[[], nn.Module], *args: object) -> Build:
    """:func:`module_step` as a contender of :func:`measure`."""
    return partial(module_step, build, *args)  # type: ignore[arg-type]


def add_benchmark_arguments(parser: ArgumentParser) -> None:
    """Add the options that the benchmarks have in common."""
    parser.add_argument('--batch', type=positive_int, default=1, help='images (1)')
    parser.add_argument('--mode', choices=['infer', 'train'], default='infer')
    parser.add_argument('--device', choices=['cpu', 'cuda'], default='cpu')
    parser.add_argument(
        '--dtype',
        choices=['float32', 'bfloat16', 'float16'],
        default='float32',
        help='of autocast, unless float32 (float32)',
    )
    parser.add_argument(
        '--repeats', type=positive_int, default=5, help='medians are taken over these (5)'
    )
    parser.add_argument(
        '--threads', type=positive_int, help="of each process (PyTorch's choice)"
    )
    parser.add_argument(
        '--json', type=Path, metavar='FILE', help='where the measurements go'
    )


def check_benchmark_arguments(parser: ArgumentParser, args: Namespace) -> None:
    """Stop with exit code 2 when the device is not available."""
    if args.device == 'cuda' and not torch.cuda.is_available():
        parser.error('--device cuda: no GPU is available')


def as_table(
    found: Mapping[str, Measurement], reference: str, title: str = 'contender'
) -> list[str]:
    """Lines of a table: medians, and their ratios to those of ``reference``."""
    base = found[reference]
    lines = [f'{title:34s} {"time":>9s} {"memory":>10s}   over {reference}']
    for name, m in found.items():
        if m.error:
            lines.append(f'{name:34s} {m.error}')
            continue
        lines.append(
            f'{name:34s} {m.median_seconds:7.3f} s {m.median_mib:6.0f} MiB '
            f'{m.median_seconds / base.median_seconds:7.2f} x'
            f'{m.median_mib / base.median_mib:7.2f} x'
        )
    return lines


def record(path: Path, about: dict, found: Mapping[str, Mapping[str, Measurement]]) -> None:
    """Write everything that was measured as JSON: ``about``, then by size and contender."""
    results = {
        size: {
            name: dict(asdict(m), median_seconds=m.median_seconds, median_mib=m.median_mib)
            if m.error is None
            else dict(error=m.error)
            for name, m in measurements.items()
        }
        for size, measurements in found.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**about, 'results': results}, indent=1) + '\n')
