"""The checks for a machine with a GPU, as far as they go without one."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_layers.test_attention.cases import needs_triton

SCRIPT = Path(__file__).parents[1] / '.dev_scripts/gpu_day.py'


@pytest.fixture
def gpu_day():
    spec = importlib.util.spec_from_file_location('gpu_day', SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@needs_triton
def test_dry_run(tmp_path):
    command = ['bash', SCRIPT.with_suffix('.sh'), '--dry-run', '--out', tmp_path]
    names = ['memory', 'exactness', 'self_check', 'blocks', 'tuning']
    command += ['--minutes', '600', '--steps', *names]
    # In the place of NVIDIA's compute-sanitizer: one that finds nothing.
    tool = tmp_path / 'bin/compute-sanitizer'
    tool.parent.mkdir()
    tool.write_text('#!/bin/sh\necho watched > "$6"\nshift 6\nexec "$@"\n')
    tool.chmod(0o755)
    path = f'{tool.parent}{os.pathsep}{os.environ["PATH"]}'
    env = {**os.environ, 'PYTHON': sys.executable, 'PATH': path}
    run = subprocess.run(command, env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
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
