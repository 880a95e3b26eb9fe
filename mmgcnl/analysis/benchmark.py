"""Time and memory of contenders, each in its own process, measured in turns.

On a shared machine, absolute times drift within minutes. Contenders are therefore measured
in turns and compared by ratios of medians.
"""

from __future__ import annotations

import ctypes
import gc
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from mmengine.utils import ProgressBar
from torch import Tensor, nn

MIB = 2**20
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h
#: Seconds for which a step is repeated in each turn.
TIMED_SECONDS = 0.3
#: Makes the step that is measured. It is called in the contender's own process.
Build = Callable[[], Callable[[], object]]


@dataclass(frozen=True)
class Measurement:
    """Time and memory of a contender.

    Attributes:
        seconds: Seconds of each repeat.
        mib: MiB by which each repeat raised the peak memory of the process, or of the GPU.
        error: Why there are no measurements, or None.
    """

    seconds: list[float]
    mib: list[float]
    error: str | None = None

    @property
    def median_seconds(self) -> float:
        """Median of the seconds; NaN without measurements."""
        return statistics.median(self.seconds) if self.seconds else float('nan')

    @property
    def median_mib(self) -> float:
        """Median of the MiB; NaN without measurements."""
        return statistics.median(self.mib) if self.mib else float('nan')


def measure(
    contenders: Mapping[str, Build],
    repeats: int = 5,
    threads: int | None = None,
    device: str = 'cpu',
) -> dict[str, Measurement]:
    """Run each contender's step ``repeats`` times, in turns, after a warm-up.

    Args:
        contenders: For each name a picklable function that builds the step.
        repeats: Number of measured turns.
        threads: Threads of each process. None: PyTorch's default.
        device: 'cpu' or 'cuda', where the steps run: its memory is measured.

    Returns:
        The measurements by name. A contender that fails, or whose process dies, has an
        error instead.
    """
    context = get_context('spawn')
    workers = {}
    for name, build in contenders.items():
        here, there = context.Pipe()
        worker = context.Process(
            target=_work, args=(there, build, threads, device), daemon=True
        )
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


def _work(pipe: Connection, build: Build, threads: int | None, device: str) -> None:
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
            pipe.send(_measure_once(step, device == 'cuda'))
        except Exception as error:  # reported as the result of the contender
            first_line, *_ = [*str(error).splitlines(), 'no message']
            pipe.send(f'{type(error).__name__}: {first_line}')


def _keep_freed_memory(mib: int) -> None:
    """Let the allocator keep up to ``mib`` MiB of what is freed, by mallopt(3) of glibc."""
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_TRIM_THRESHOLD, mib * MIB)
    # Larger pieces than that are returned at once; glibc allows 32 MiB at most.
    libc.mallopt(_M_MMAP_THRESHOLD, min(mib, 32) * MIB)


def _measure_once(step: Callable[[], object], on_gpu: bool) -> tuple[float, int]:
    """Measure the seconds of a step, and the bytes by which it raises the peak memory.

    The memory is that of the first step. What it frees is returned to the system at once,
    so that the peak is that of the memory in use. Getting it back takes time that the timed
    steps do not spend: they keep 64 MiB, as glibc comes to do in any large model. They run
    for TIMED_SECONDS, once at least, and the median counts: the first steps find the caches
    full of another contender's data.
    """
    gc.collect()
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        # Reusing freed memory would hide the growth.
        _keep_freed_memory(0)
        ctypes.CDLL(None).malloc_trim(0)
        Path('/proc/self/clear_refs').write_text('5')  # resets the peak
        before = _status('VmRSS')
    step()
    after = torch.cuda.max_memory_allocated() if on_gpu else _status('VmHWM')
    _keep_freed_memory(64)
    step()
    seconds: list[float] = []
    while sum(seconds) < TIMED_SECONDS:
        if on_gpu:
            torch.cuda.synchronize()
        start = time.perf_counter()
        step()
        if on_gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), after - before


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
    """Make a step that runs a module forward, or forward and backward.

    Args:
        build: Makes the module. All its weights are replaced by random ones, because
            operations may take a shortcut for zeros.
        shapes: Shape of the input, or shapes of the inputs that it takes as one list.
        mode: 'infer' (forward) or 'train' (forward and backward).
        device: 'cpu' or 'cuda'.
        dtype: 'float32', or the dtype of autocast.
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


def as_table(found: Mapping[str, Measurement], reference: str) -> list[str]:
    """Format the medians, and their ratios to those of ``reference``, as a table.

    Args:
        found: The measurements by name.
        reference: Name of the contender that the others are compared with.

    Returns:
        The lines of the table.
    """
    base = found[reference]
    lines = [f'{"contender":34s} {"time":>9s} {"memory":>10s}   over {reference}']
    for name, m in found.items():
        if m.error:
            lines.append(f'{name:34s} {m.error}')
            continue
        lines.append(
            f'{name:34s} {m.median_seconds:7.3f} s {m.median_mib:6.0f} MiB '
            f'{_ratio(m.median_seconds, base.median_seconds)}'
            f'{_ratio(m.median_mib, base.median_mib)}'
        )
    return lines


def _ratio(value: float, base: float) -> str:
    return f'{value / base:7.2f} x' if base else f'{"-":>9s}'


def record(path: Path, about: dict, found: Mapping[str, Mapping[str, Measurement]]) -> None:
    """Write measurements as JSON.

    Args:
        path: The file. Its folder is made.
        about: What the measurements are of, for the top level.
        found: The measurements by size and contender.
    """
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
