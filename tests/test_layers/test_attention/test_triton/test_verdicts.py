"""One process finds a verdict, the others read it, and none waits for ever."""

import errno
import json
import os
import signal
import time
from types import SimpleNamespace

import pytest
import torch

from mmgcnl.layers.attention.triton import verdicts
from mmgcnl.layers.attention.triton.verdicts import machine_key, shared_verdict
from tests.test_layers.test_attention.cases import start

KEY = dict(gpu='a GPU', dims=32)
# Where a test would wait for ever, it fails.
DEADLINE = 60


def wait_for(condition):
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def find_and_note(folder, verdict, seconds=0.0, wait=DEADLINE):
    """Take a verdict, and note who finds it and what comes out."""

    def find():
        with (folder / 'found').open('a') as file:
            file.write(f'{os.getpid()}\n')
        time.sleep(seconds)
        return verdict

    reason = shared_verdict(folder / 'cache', KEY, 'a kernel', find, wait)
    (folder / f'{os.getpid()}.out').write_text(json.dumps(reason))


def finders(folder):
    path = folder / 'found'
    return list(map(int, path.read_text().split())) if path.exists() else []


def verdicts_of(folder):
    return [json.loads(path.read_text()) for path in folder.glob('*.out')]


@pytest.mark.parametrize('verdict', [None, 'they are wrong'])
def test_one_of_eight_processes_validates(tmp_path, verdict):
    processes = [start(find_and_note, tmp_path, verdict, 0.5) for _ in range(8)]
    for process in processes:
        process.join(DEADLINE)
    assert len(finders(tmp_path)) == 1
    assert verdicts_of(tmp_path) == [verdict] * 8


def test_next_process_validates_after_the_first_was_killed(tmp_path):
    killed = start(find_and_note, tmp_path, None, 10 * DEADLINE)
    wait_for(lambda: finders(tmp_path) == [killed.pid])
    others = [start(find_and_note, tmp_path, None) for _ in range(3)]
    time.sleep(0.5)
    assert finders(tmp_path) == [killed.pid]  # they wait
    os.kill(killed.pid, signal.SIGKILL)
    for process in others:
        process.join(DEADLINE)
    assert len(finders(tmp_path)) == 2
    assert verdicts_of(tmp_path) == [None] * 3
    killed.join()


def test_waiting_for_a_stopped_process_times_out(tmp_path):
    stopped = start(find_and_note, tmp_path, None, 10 * DEADLINE)
    wait_for(lambda: finders(tmp_path) == [stopped.pid])
    os.kill(stopped.pid, signal.SIGSTOP)
    other = start(find_and_note, tmp_path, None, 0.0, 0.3)
    other.join(DEADLINE)
    assert finders(tmp_path) == [stopped.pid, other.pid]
    assert verdicts_of(tmp_path) == [None]
    os.kill(stopped.pid, signal.SIGKILL)
    stopped.join()


@pytest.fixture
def take(tmp_path, caplog):
    """Take a verdict in this process; returns it, and how often it was looked for."""

    def take(verdict=None, key=KEY, folder=tmp_path):
        found = []
        reason = shared_verdict(
            folder, key, 'the kernels of a kind', lambda: found.append(1) or verdict
        )
        return reason, len(found)

    return take


def test_a_verdict_is_kept_by_its_key(take, caplog):
    assert take() == (None, 1)
    (record,) = caplog.records
    assert 'Compiling and checking the kernels of a kind' in record.getMessage()
    assert take('unused') == (None, 0)
    assert take('off', key=dict(KEY, dims=64)) == ('off', 1)
    assert take() == (None, 0)


def test_a_reason_against_the_kernels_counts_for_processes_that_ran(take, monkeypatch):
    """What a user has mended since counts no more."""
    assert take('no C compiler') == ('no C compiler', 1)
    assert take() == ('no C compiler', 0)
    monkeypatch.setattr(verdicts, '_STARTED', time.time() + 1)
    assert take() == (None, 1)
    assert take('unused') == (None, 0)


@pytest.mark.parametrize(
    'text',
    [
        '',
        '{"key": {"gpu"',
        'null',
        '[]',
        '{}',
        json.dumps(dict(key=KEY)),
        json.dumps(dict(key=KEY, reason=None, found='yesterday')),
        json.dumps(dict(key=KEY, reason=5, found=1e12)),
        json.dumps(dict(key=dict(KEY, gpu='another'), reason=None, found=1e12)),
        b'\xff\xfe\x00',
    ],
)
def test_a_damaged_file_is_replaced(take, tmp_path, text):
    take()
    (path,) = tmp_path.glob('*.json')
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert take() == (None, 1)
    assert take() == (None, 0)
    assert not list(tmp_path.glob('*.part'))


def test_without_a_folder_every_process_finds_its_own(take, tmp_path):
    (tmp_path / 'file').write_text('')
    for _ in range(2):
        with pytest.warns(UserWarning, match='cannot be kept.*set XDG_CACHE_HOME'):
            assert take(folder=tmp_path / 'file' / 'folder') == (None, 1)


def test_a_file_system_without_locks_keeps_verdicts(take, monkeypatch):
    def no_locks(*args):
        raise OSError(errno.ENOLCK, 'No locks available')

    monkeypatch.setattr(verdicts.fcntl, 'flock', no_locks)
    assert take() == (None, 1)
    assert take() == (None, 0)


def test_an_attempt_that_fails_is_not_kept_and_holds_no_lock(take, tmp_path):
    def full():
        raise torch.cuda.OutOfMemoryError

    with pytest.raises(torch.cuda.OutOfMemoryError):
        shared_verdict(tmp_path, KEY, 'a kernel', full)
    assert take() == (None, 1)


def test_the_key_has_all_that_a_verdict_depends_on(monkeypatch):
    gpu = SimpleNamespace(name='NVIDIA A100', major=8, minor=0)
    monkeypatch.setattr(torch.cuda, 'get_device_properties', lambda device: gpu)
    monkeypatch.setattr(verdicts, '_driver', lambda: '570.86')
    monkeypatch.setenv('TRITON_CACHE_DIR', '/tmp/of-one-process')
    keys = [machine_key(torch.device('cuda:1'), '3.7.1')]
    assert '/tmp/of-one-process' not in json.dumps(keys)
    for patch in (
        lambda: setattr(gpu, 'name', 'NVIDIA A30'),
        lambda: monkeypatch.setattr(verdicts, '_driver', lambda: '580.12'),
        lambda: monkeypatch.setattr(torch, '__version__', '2.15.0'),
        lambda: monkeypatch.setattr(torch.version, 'cuda', '13.0'),
        lambda: monkeypatch.setenv('TRITON_PTXAS_PATH', '/usr/local/cuda/bin/ptxas'),
        lambda: monkeypatch.setattr(verdicts, 'source_digest', lambda: 'changed'),
    ):
        patch()
        keys.append(machine_key(torch.device('cuda:1'), '3.7.1'))
    keys.append(machine_key(torch.device('cuda:1'), '3.8.0'))
    assert len({json.dumps(key) for key in keys}) == len(keys) == 8


def test_the_folder_is_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    assert verdicts.verdict_folder() == tmp_path / 'mmgcnl' / 'kernels'
    monkeypatch.delenv('XDG_CACHE_HOME')
    monkeypatch.setenv('HOME', '/home/someone')
    assert str(verdicts.verdict_folder()) == '/home/someone/.cache/mmgcnl/kernels'
