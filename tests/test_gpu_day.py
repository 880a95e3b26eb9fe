"""The checks for a machine with a GPU, as far as they go without one."""

import importlib.util
import json
import os
import subprocess
import sys
from multiprocessing import get_context
from pathlib import Path

import pytest

from mmgcnl.layers.attention.triton import operator
from tests.test_layers.test_attention.cases import needs_triton

SCRIPT = Path(__file__).parents[1] / '.dev_scripts/gpu_day.py'


def load():
    spec = importlib.util.spec_from_file_location('gpu_day', SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def gpu_day():
    return load()


class Copy:
    """In the place of a process of gpu_day: a copy of this one."""

    def __init__(self, command, env, stderr=None, start_new_session=False):
        def run():
            os.environ.clear()
            os.environ.update(env)
            if stderr is not None:
                os.dup2(stderr.fileno(), sys.stderr.fileno())
            sys.exit(load().main(command[2:]))

        self.process = get_context('fork').Process(target=run)
        self.process.start()
        self.pid, self.kill = self.process.pid, self.process.kill

    def wait(self, timeout=None):
        self.process.join(timeout)
        return self.poll()

    def poll(self):
        return self.process.exitcode


@needs_triton
def test_dry_run(gpu_day, tmp_path, monkeypatch, capfd):
    """Copies need no 4 s each to import; compute-sanitizer starts processes as always."""
    names = ['memory', 'exactness', 'self_check', 'blocks', 'tuning']
    options = ['--dry-run', '--out', str(tmp_path), '--minutes', '600', '--steps', *names]
    # In the place of NVIDIA's compute-sanitizer: one that finds nothing.
    tool = tmp_path / 'bin/compute-sanitizer'
    tool.parent.mkdir()
    tool.write_text('#!/bin/sh\necho watched > "$6"\nshift 6\nexec "$@"\n')
    tool.chmod(0o755)
    monkeypatch.setenv('PATH', str(tool.parent), os.pathsep)
    monkeypatch.setenv('PYTHONPATH', str(SCRIPT.parents[1]))
    operator.load_kernels()  # imports Triton
    start, own = subprocess.Popen, [sys.executable, str(SCRIPT)]
    monkeypatch.setattr(
        subprocess,
        'Popen',
        lambda command, **options: (Copy if command[:2] == own else start)(
            command, **options
        ),
    )
    assert gpu_day.main(options) == 0, capfd.readouterr()
    steps = json.loads((tmp_path / 'gpu_day.json').read_text())['steps']
    assert list(steps) == ['environment', *names]
    assert all(step['status'] == 'done' for step in steps.values())
    tools = {row['tool']: row for row in steps['memory']['rows']}
    assert list(tools) == ['memcheck', 'racecheck']
    assert all(row['ok'] and row['kinds'] == 1 for row in tools.values())
    assert all(row['summary'] == 'watched' for row in tools.values())
    assert [row['checks'] for row in steps['self_check']['rows']] == [1, 0]
    exactness = steps['exactness']['rows']
    assert {row['dtype'] for row in exactness} == {'torch.float32', 'torch.float16'}
    assert all(row['ok'] and 0 < row['error'] <= row['limit'] for row in exactness)
    rows = [row for row in steps['blocks']['rows'] if 'block' in row]
    assert {'floor: SDPA', 'ours', 'ours, dropout 0.1'} <= {row['block'] for row in rows}
    errors = {row['block']: row['error'] for row in rows if 'error' in row}
    assert errors.keys() == {'one-hot SDPA', 'FlexAttention'}
    assert all(error < 1e-5 for error in errors.values())
    assert not any('failure' in row for row in steps['blocks']['rows'])
    tried = [row for row in steps['tuning']['rows'] if 'BLOCK_M' in row]
    kernels = {'forward', 'query_gradient', 'key_gradient', 'key_gradient_tail'}
    assert len(tried) == 2 and all(kernels <= row.keys() for row in tried)
    page = (tmp_path / 'gpu_day.md').read_text()
    assert '| torch.float16 | 5x7 | 32 |' in page and 'ours, dropout 0.1' in page


def test_script_starts_it():
    command = ['bash', SCRIPT.with_suffix('.sh'), '--help']
    env = {**os.environ, 'PYTHON': sys.executable}
    run = subprocess.run(command, env=env, cwd='/', capture_output=True, text=True)
    assert run.returncode == 0 and '--dry-run' in run.stdout, run


def test_a_step_that_fails_or_hangs_does_not_stop_the_others(
    gpu_day, tmp_path, monkeypatch, capsys
):
    """Each is a process of its own, and its rows are kept."""
    script = tmp_path / 'steps.py'
    script.write_text(
        'import json, pathlib, sys, time\n'
        'options = dict(zip(sys.argv[1::2], sys.argv[2::2]))\n'
        "name = options['--step']\n"
        "path = pathlib.Path(options['--out']) / f'{name}.jsonl'\n"
        "path.write_text(json.dumps(dict(device='none', ok=True)) + '\\n')\n"
        "if name == 'exactness':\n"
        "    sys.exit('illegal memory access')\n"
        "if name == 'blocks':\n"
        '    time.sleep(600)\n'
    )
    monkeypatch.setattr(gpu_day, '__file__', str(script))
    monkeypatch.setattr(gpu_day, 'GRACE', 1)
    shares = {function: 0.1 for function in gpu_day.STEPS}
    monkeypatch.setattr(gpu_day, 'STEPS', shares)
    options = ['--out', str(tmp_path), '--steps', 'exactness', 'blocks', 'tuning']
    assert gpu_day.main(options) == 1
    steps = json.loads((tmp_path / 'gpu_day.json').read_text())['steps']
    assert steps['exactness']['status'] == 'failed with exit code 1'
    assert 'illegal memory access' in steps['exactness']['log']
    assert steps['blocks']['status'].startswith('ended after')
    assert steps['tuning']['status'] == 'done'
    assert all(step['rows'] == [dict(device='none', ok=True)] for step in steps.values())
    assert 'exactness failed with exit code 1' in capsys.readouterr().out
    assert 'illegal memory access' in (tmp_path / 'gpu_day.md').read_text()


def test_steps_without_time_are_listed(gpu_day, tmp_path, monkeypatch):
    ran = dict(status='done', seconds=0, rows=[dict(device='none')])
    monkeypatch.setattr(gpu_day, 'run_step', lambda *args: ran)
    monkeypatch.setattr(gpu_day, 'GRACE', 20)
    clock = iter(range(0, 10**6, 500))
    monkeypatch.setattr(gpu_day.time, 'monotonic', lambda: next(clock))
    assert gpu_day.main(['--out', str(tmp_path)]) == 0
    steps = json.loads((tmp_path / 'gpu_day.json').read_text())['steps']
    assert [step['status'] for step in steps.values()] == [
        *['done'] * 2,
        *['Not reached: no time was left'] * 6,
    ]
