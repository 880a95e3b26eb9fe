"""What the benchmarks measure with: that they see time, memory and failures."""

import os
import resource
import signal
import statistics
import sys
import time
from functools import partial

import matplotlib.axes
import pytest
import torch
from torch import nn

from mmgcnl.analysis.benchmark import (
    MIB,
    TIMED_SECONDS,
    Measurement,
    _measure_once,
    as_table,
    measure,
    module_step,
)
from mmgcnl.analysis.figures import draw_scaling
from tests.builders import fork_contenders

pytestmark = pytest.mark.skipif(
    sys.platform != 'linux', reason='memory is measured on Linux only'
)


@pytest.fixture
def forked(monkeypatch):
    fork_contenders(monkeypatch)


def take(mib: int, seconds: float):
    def step() -> None:
        torch.ones(mib * MIB, dtype=torch.uint8)
        time.sleep(seconds)

    return step


def die():
    return lambda: os.kill(os.getpid(), signal.SIGKILL)


def fail():
    raise RuntimeError('no such thing\nin detail')


def fail_silently():
    raise MemoryError


def take_at_first(calls: str, seconds: float):
    """Take memory in every third call, and note all calls in a file."""

    def step() -> None:
        with open(calls, 'a+') as file:
            file.seek(0)
            if len(file.read()) % 3 == 0:
                torch.ones(100 * MIB, dtype=torch.uint8)
            file.write('.')
        time.sleep(seconds)

    return step


def test_memory_and_time_are_measured_in_runs_of_their_own(tmp_path, forked):
    calls = tmp_path / 'calls'
    step = partial(take_at_first, str(calls), 2 * TIMED_SECONDS)
    found = measure({'one': step}, repeats=2, threads=1)
    # For memory, to get it back, and for time; the first turn is the warm-up.
    assert len(calls.read_text()) == 3 * 3
    assert min(found['one'].mib) > 95


def test_memory_on_the_cpu_where_there_is_a_gpu(monkeypatch):
    """The memory of steps on the CPU is measured there, and zero is no divisor."""
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    seconds, growth = _measure_once(lambda: torch.ones(20 * MIB, dtype=torch.uint8), False)
    assert growth > 15 * MIB
    found = {'none': Measurement([1.0], [0.0]), 'some': Measurement([2.0], [3.0])}
    assert as_table(found, 'none')[-1].split()[-3:] == ['2.00', 'x', '-']


def test_time_of_a_short_step_is_the_median_of_several(tmp_path, forked):
    calls = tmp_path / 'calls'
    step = partial(take_at_first, str(calls), TIMED_SECONDS / 6)
    found = measure({'short': step}, repeats=2, threads=1)
    assert len(calls.read_text()) > 3 * 3
    assert len(found['short'].seconds) == 2


def note_page_faults(faults: str):
    def step() -> None:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        pieces = [torch.ones(4 * MIB, dtype=torch.uint8) for _ in range(6)]
        del pieces
        after = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        with open(faults, 'a') as file:
            file.write(f'{after - before}\n')

    return step


def test_timed_steps_do_not_wait_for_memory(tmp_path, forked):
    faults = tmp_path / 'faults'
    measure({'one': partial(note_page_faults, str(faults))}, repeats=1, threads=1)
    of_steps = [int(line) for line in faults.read_text().splitlines()]
    assert statistics.median(of_steps) < 100


def test_measures_each_contender_and_survives_its_failure(forked):
    contenders = {
        'large': partial(take, 300, 0.0),
        'slow': partial(take, 10, 0.3),
        'dying': die,
        'failing': fail,
        'silent': fail_silently,
    }
    found = measure(contenders, repeats=2, threads=1)
    assert list(found) == list(contenders)
    assert len(found['large'].seconds) == len(found['large'].mib) == 2
    assert 295 < found['large'].median_mib < 330
    assert found['slow'].median_mib < 40
    assert found['slow'].median_seconds >= 0.3
    assert 'its process ended with code -9' in found['dying'].error
    assert found['failing'].error == 'RuntimeError: no such thing'
    assert found['silent'].error == 'MemoryError: no message'
    table = '\n'.join(as_table(found, 'slow'))
    assert '1.00 x' in table and 'RuntimeError' in table


class Sum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))

    def forward(self, x):
        assert self.weight.abs().sum() > 0
        return (
            [y * self.weight.sum() for y in x]
            if isinstance(x, list)
            else x * self.weight[0]
        )


@pytest.mark.parametrize('mode', ['infer', 'train'])
@pytest.mark.parametrize('shapes', [[(2, 3)], [(2, 3), (4, 5)]])
def test_module_step_runs_forward_and_in_training_backward(mode, shapes):
    calls = []

    class Spy(Sum):
        def forward(self, x):
            calls.append(torch.is_grad_enabled())
            return super().forward(x)

    backward = []
    spy = Spy()
    spy.weight.register_hook(lambda grad: backward.append(grad))
    module_step(lambda: spy, shapes, mode, 'cpu')()
    assert calls == [mode == 'train']
    assert len(backward) == (mode == 'train')


def test_every_contender_is_drawn(tmp_path, monkeypatch):
    names = [f'contender {i}' for i in range(9)]
    found = {'10x10': {name: Measurement([0.1], [1.0]) for name in names}}
    found['20x20'] = {name: Measurement([], [], 'out of memory') for name in names}
    drawn = []
    plot = matplotlib.axes.Axes.plot
    monkeypatch.setattr(
        matplotlib.axes.Axes,
        'plot',
        lambda ax, *args, **kwargs: (
            drawn.append(kwargs['label']) or plot(ax, *args, **kwargs)
        ),
    )
    draw_scaling(found, tmp_path / 'scaling.png', 'train')
    assert drawn == 2 * names
