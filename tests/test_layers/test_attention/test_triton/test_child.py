"""The comparison in a child process: whatever happens to that, this one goes on."""

import json
import os
import re
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mmgcnl.layers.attention.triton import child, validation
from mmgcnl.layers.attention.triton.child import ChildError, compare_in_child
from tests.test_layers.test_attention.cases import CUDA, needs_triton

KIND = dict(dtype='float32', dims=8, tile=16, tail=False, position=True, dropout=False)


@pytest.fixture
def child_does(monkeypatch):
    """Let the child run some lines of Python."""

    def replace(*lines):
        code = [
            'import json, os, signal, subprocess, sys, time',
            "say = lambda **facts: print(f'\\nmmgcnl child: {json.dumps(facts)}', flush=1)",
            *lines,
        ]
        monkeypatch.setattr(child, '_CODE', '\n'.join(code))

    return replace


@needs_triton
@pytest.mark.skipif(CUDA, reason='the interpreter is for machines without a GPU')
def test_a_child_compares_the_kernels_with_the_reference(monkeypatch):
    # As that of a program that has changed its path.
    monkeypatch.setattr(sys, 'path', [*sys.path, Path('/nowhere')])
    assert compare_in_child('cpu', KIND) is None
    wrong = compare_in_child('cpu', dict(KIND, tile=48))
    assert 'ValueError: tile=48 with tail=False is not used' in wrong


@pytest.mark.parametrize(
    ('lines', 'expected'),
    [
        # What else it prints does not matter.
        (["print('hello', end='')", 'say(reason=None)', 'sys.exit(3)'], None),
        (["say(reason='they are off')", "print('{', file=sys.stderr)"], 'they are off'),
        # As one that the compiler or the driver ends.
        (['os.kill(os.getpid(), signal.SIGSEGV)'], 'was ended by signal 11'),
        (["sys.exit('an illegal memory access')"], 'ended with status 1 .*illegal memory'),
    ],
)
def test_what_becomes_of_a_child_tells_of_the_kernels(child_does, lines, expected):
    child_does("say(gpu='cpu')", *lines)
    reason = compare_in_child('cpu', KIND)
    assert re.search(expected, reason) if expected else reason is None


@pytest.mark.skipif(not hasattr(os, 'killpg'), reason='needs process groups')
def test_a_child_that_hangs_is_ended_with_what_it_started(child_does):
    compiler = "subprocess.Popen(['sleep', '1000'])"
    child_does("say(gpu='cpu')", f'print({compiler}.pid, flush=True)', 'time.sleep(1000)')
    began = time.monotonic()
    reason = compare_in_child('cpu', KIND, limit=3.0)
    assert time.monotonic() - began < 60
    assert 'did not end within 3 seconds' in reason
    number = int(reason.rpartition(' ')[2].rstrip(')'))
    end = time.monotonic() + 30
    while is_running(number):
        assert time.monotonic() < end
        time.sleep(0.05)


def is_running(number):
    try:
        with open(f'/proc/{number}/stat') as file:
            return file.read().rpartition(')')[2].split()[0] != 'Z'
    except FileNotFoundError:
        return False


def test_a_child_ends_itself_where_its_parent_is_gone(monkeypatch):
    code = child._CODE.replace(
        'main(request, compare_with_reference)',
        'import time\n'
        'main({**request, "limit": 0.5}, lambda *args, **kind: time.sleep(1000))',
    )
    assert code != child._CODE
    monkeypatch.setattr(child, '_CODE', code)
    reason = compare_in_child('cpu', KIND)
    assert 'ended with status 1' in reason and 'Timeout' in reason


@pytest.mark.parametrize(
    ('lines', 'message'),
    [
        (["sys.exit('CUDA-capable device(s) is/are busy')"], 'busy'),
        (["say(gpu='cpu:1')", 'say(reason=None)'], 'another GPU, cpu:1'),
        ([], 'cannot use the GPU'),
    ],
)
def test_a_child_without_the_gpu_says_nothing_of_the_kernels(child_does, lines, message):
    child_does(*lines)
    with pytest.raises(ChildError, match=message):
        compare_in_child('cpu', KIND)


def test_a_full_gpu_is_no_reason_against_the_kernels(child_does):
    child_does('say(full=True)')
    with pytest.raises(torch.cuda.OutOfMemoryError):
        compare_in_child('cpu', KIND)


@pytest.mark.parametrize('executable', ['', '/nowhere/python'])
def test_without_an_interpreter_there_is_no_child(monkeypatch, executable):
    monkeypatch.setattr(sys, 'executable', executable)
    with pytest.raises(ChildError):
        compare_in_child('cpu', KIND)
    monkeypatch.setattr(sys, 'frozen', True, raising=False)
    with pytest.raises(ChildError, match='not run by a Python interpreter'):
        compare_in_child('cpu', KIND)


@pytest.fixture
def fake_gpu(monkeypatch, tmp_path, untried):
    """What validation asks of a GPU, and what it does to check the kernels there."""
    gpu = SimpleNamespace(name='NVIDIA A100', major=8, minor=0)
    monkeypatch.setattr(torch.cuda, 'get_device_properties', lambda device: gpu)
    monkeypatch.setattr(torch.cuda, 'is_current_stream_capturing', lambda: False)
    monkeypatch.setattr(torch.cuda, 'empty_cache', lambda: done.append('empty_cache'))
    monkeypatch.setattr(validation, 'verdict_folder', lambda: tmp_path)
    done = []

    def answer(child=None, here=None):
        def in_child(device, kind):
            done.append(f'child on {device}')
            json.dumps(kind)
            if isinstance(child, Exception):
                raise child
            return child

        def in_process(what):
            def function(device, dtype, **sizes):
                done.append(f'{what} on {device}, {dtype}, {sizes["dims"]}')
                return here

            return function

        monkeypatch.setattr(validation, 'compare_in_child', in_child)
        monkeypatch.setattr(validation, 'compare_with_reference', in_process('here'))
        monkeypatch.setattr(validation, 'try_launch', in_process('launched'))
        untried()
        done.clear()

    return answer, done


def validate(device='cuda:0', dims=32):
    return validation.validate_kernels(device, torch.float16, dims, 64, True, True, True)


@needs_triton
def test_on_a_gpu_a_child_checks_once_per_machine(fake_gpu, caplog):
    answer, done = fake_gpu
    answer()
    assert [validate(), validate()] == [None, None]
    launched = 'launched on cuda:{}, torch.float16, 32'
    assert done == ['empty_cache', 'child on cuda:0', launched.format(0)]
    (record,) = caplog.records
    expected = (
        'torch.float16, 32 channels a head, tiles of 64 keys with a tail, with position'
    )
    assert expected in record.getMessage()
    answer(child='never asked for')  # another process, on another GPU of the kind
    assert validate('cuda:1') is None
    # What did no harm elsewhere may fail here, such as without a C compiler.
    assert done == [launched.format(1)]
    answer(here='no C compiler')
    assert validate('cuda:2') == 'no C compiler'
    answer(child='they are off')
    assert validate(dims=64) == 'they are off'


@needs_triton
def test_without_a_child_the_check_is_made_here(fake_gpu, caplog):
    answer, done = fake_gpu
    answer(child=ChildError('the GPU is exclusive'), here='off by 1')
    assert validate('cuda:3') == 'off by 1'
    assert done[1:] == ['child on cuda:3', 'here on cuda:3, torch.float16, 32']
    assert 'in this process: the GPU is exclusive' in caplog.text


@needs_triton
def test_a_launch_says_whether_the_kernels_run(monkeypatch):
    """Once, without the reference."""
    kind = {**KIND, 'dtype': torch.float32}
    runs = []
    attention = validation.operator.triton_attention

    def count(*args):
        runs.append(1)
        return attention(*args)

    monkeypatch.setattr(validation.operator, 'triton_attention', count)
    monkeypatch.setattr(validation, 'dense_attention', None)
    assert validation.try_launch('cpu', **kind) is None
    assert runs == [1]

    def fail(*args):
        raise RuntimeError('Failed to find C compiler')

    monkeypatch.setattr(validation.operator, 'triton_attention', fail)
    assert 'Failed to find C compiler' in validation.try_launch('cpu', **kind)
