"""Trainings of several processes that meet faults, and continue by themselves or stop."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from tests.builders import ROOT, draw_squares, free_port, write_config, write_segmentor

pytestmark = pytest.mark.slow
ITERATIONS = 8
Fault = tuple[int | None, int, int, str]


@pytest.fixture(scope='module')
def config(tmp_path_factory) -> Path:
    """A segmentor with dropout and random images, whose last checkpoint is every third."""
    folder = tmp_path_factory.mktemp('restarts')
    draw_squares(folder / 'data')
    base = write_segmentor(folder / 'segmentor.py', folder / 'data')
    settings = dict(
        custom_imports=dict(imports=['mmgcnl', 'tests.faults'], allow_failed_imports=False),
        custom_hooks=[dict(type='Faults')],
        default_hooks=dict(checkpoint=dict(interval=3)),
        model=dict(backbone=dict(init_cfg=None), decode_head=dict(dropout_ratio=0.1)),
        randomness=dict(diff_rank_seed=True),
        train_cfg=dict(max_iters=ITERATIONS),
        train_dataloader=dict(batch_size=1),
        log_level='INFO',
    )
    return write_config(folder / 'config.py', settings, str(base))


@pytest.fixture
def launch(config, tmp_path) -> Callable[..., subprocess.Popen]:
    """Start tools/dist_train.sh: launch(work_dir, *options, faults, **environment)."""
    started = []

    def launch(
        work_dir: str,
        *options: str,
        faults: Sequence[Fault] = (),
        processes: int = 2,
        command: Sequence[object] = ('bash', ROOT / 'tools/dist_train.sh'),
        **environment: object,
    ) -> subprocess.Popen:
        env = dict(CUDA_VISIBLE_DEVICES='', OMP_NUM_THREADS='1', FAULTS=json.dumps(faults))
        env.update(PYTHON=sys.executable, PYTHONPATH=ROOT, PORT=free_port())
        env.update(environment)
        words = [*command, config, processes, '--work-dir', tmp_path / work_dir, *options]
        process = subprocess.Popen(
            [str(word) for word in words],
            cwd=tmp_path,
            env={**os.environ, **{key: str(value) for key, value in env.items()}},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    yield launch
    for process in started:
        process.terminate()  # torchrun ends its processes, which SIGKILL would leave behind
        process.wait(timeout=60)


def finish(process: subprocess.Popen, seconds: int = 240) -> tuple[int, str]:
    output, _ = process.communicate(timeout=seconds)
    print(output)
    return process.returncode, output


def weights(work_dir: Path) -> dict[str, torch.Tensor]:
    return torch.load(work_dir / f'iter_{ITERATIONS}.pth', weights_only=False)['state_dict']


@pytest.fixture(scope='module')
def undisturbed(config, tmp_path_factory) -> dict[str, torch.Tensor]:
    """Weights of two processes that nothing happened to."""
    folder = tmp_path_factory.mktemp('undisturbed')
    script, env = ROOT / 'tools/dist_train.sh', dict(os.environ, PORT=str(free_port()))
    env.update(PYTHON=sys.executable, PYTHONPATH=str(ROOT), CUDA_VISIBLE_DEVICES='')
    env.update(OMP_NUM_THREADS='1')
    command = ['bash', script, config, '2', '--work-dir', folder]
    subprocess.run(command, env=env, check=True)
    first = torch.load(folder / 'iter_3.pth', weights_only=False)['state_dict']
    final = weights(folder)
    assert any(not torch.equal(first[key], final[key]) for key in final)
    return final


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert not [key for key in expected if not torch.equal(found[key], expected[key])]


def test_three_restarts_equal_an_undisturbed_training(launch, tmp_path, undisturbed):
    """Killed at random, before and after the first checkpoint; then slow storage.

    At first slower than the other process waits, then within that time.
    """
    draw = random.Random(0)
    faults = [(0, draw.randrange(2), draw.randrange(1, 3), 'SIGKILL')]
    faults += [(1, draw.randrange(2), draw.randrange(4, 6), 'SIGKILL')]
    faults += [(2, 0, 5, 'fsync takes 20'), (3, 0, 3, 'fsync takes 1')]
    timeout = '--cfg-options', 'env_cfg.dist_cfg.timeout=10'
    status, output = finish(launch('run', *timeout, faults=faults, MAX_RESTARTS=3))
    assert status == 0
    assert output.count('failed (exitcode') == 3
    assert 'Timed out waiting 10000ms' in output
    assert_equal(weights(tmp_path / 'run'), undisturbed)


def test_stops_after_the_last_restart(launch, tmp_path):
    faults = [(None, 0, 4, 'nan')]
    process = launch('run', faults=faults, processes=1, MAX_RESTARTS=1)
    status, output = finish(process)
    assert status != 0
    assert output.count('failed (exitcode: 1)') == 2
    last = output[output.rindex('Root Cause (first observed failure)') :]
    assert 'FloatingPointError: iteration 5: ' in last and 'iter_3.pth' in last


def test_one_killed_and_no_restarts(launch, tmp_path):
    """The other one stops with an error."""
    status, output = finish(launch('run', faults=[(0, 1, 5, 'SIGKILL')]))
    assert status != 0 and 'ChildFailedError' in output
    assert not (tmp_path / 'run/iter_6.pth').exists()


def test_stopped_process_times_out(launch, tmp_path):
    """A stopped process is found after the timeout of 5 s, not after half an hour."""
    torchrun = [sys.executable, '-m', 'torch.distributed.run', '--standalone']
    torchrun += ['--nproc-per-node=2', '--shutdown-timeout=1', ROOT / 'tools/train.py']
    options = '--launcher', 'pytorch', '--cfg-options', 'env_cfg.dist_cfg.timeout=5'
    script = tmp_path / 'torchrun.sh'
    script.write_text('exec ' + ' '.join(map(str, torchrun)) + ' "$1" "${@:3}"')
    faults = [(0, 1, 5, 'SIGSTOP')]
    process = launch('run', *options, faults=faults, command=['bash', script])
    status, output = finish(process, seconds=120)
    assert status != 0 and 'imed out' in output


def test_preempted_and_a_node_dies(launch, tmp_path, undisturbed):
    """A preempted training continues on two nodes, of which one dies, and on both again."""
    run = tmp_path / 'run'
    status, output = finish(launch('run', faults=[(0, 0, 4, 'preempted')]))
    assert status != 0
    # asked within the fifth, and they check every second
    (saved,) = {path.name for path in run.glob('*.pth')} - {'iter_3.pth'}
    assert saved in ('iter_5.pth', 'iter_6.pth')
    assert f'SIGTERM: stopped after iteration {saved[5]}' in output

    for faults in ([(0, 1, ITERATIONS - 1, 'node dies')], []):
        nodes = dict(faults=faults, processes=1, NNODES=2, PORT=free_port())
        first = launch('run', '--resume', **nodes, NODE_RANK=0)
        second = launch('run', '--resume', **nodes, NODE_RANK=1)
        results = finish(first), finish(second)
        if faults:
            assert results[0][0] > 0 and results[1][0] == -9
            assert 'ChildFailedError' in results[0][1]
            assert f'Resumed from {run}/{saved}' in results[0][1]
            assert not (run / f'iter_{ITERATIONS}.pth').exists()
    assert [status for status, _ in results] == [0, 0]
    assert_equal(weights(run), undisturbed)
