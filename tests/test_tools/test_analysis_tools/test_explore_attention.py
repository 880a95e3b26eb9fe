"""tools/analysis_tools/explore_attention.py; the page itself is tested in test_explorer."""

import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from signal import SIGINT, SIGTERM

import pytest

from tests.builders import free_port

TOOL = 'analysis_tools/explore_attention'


@pytest.mark.parametrize('signal', [SIGINT, SIGTERM])
def test_serves_until_it_is_stopped(signal, trained, segmentor, squares, tmp_path):
    pytest.importorskip('gradio', reason='the explorer needs gradio')
    port = free_port()
    tool = Path(__file__).parents[3] / f'tools/{TOOL}.py'
    command = [sys.executable, tool, segmentor, trained(segmentor), squares / 'images']
    command += ['--no-browser', '--device', 'cpu', '--port', str(port)]
    temporary = tmp_path / 'temporary'
    temporary.mkdir()
    process = subprocess.Popen(
        [*map(str, command)],
        env={**os.environ, 'TMPDIR': str(temporary), 'PYTHONUNBUFFERED': '1'},
        stdout=subprocess.PIPE,
        text=True,
    )
    lines = iter(process.stdout.readline, '')
    assert any(f'is at http://127.0.0.1:{port}/' in line for line in lines)
    assert urllib.request.urlopen(f'http://127.0.0.1:{port}/').status == 200
    process.send_signal(signal)
    assert 'ended' in process.communicate(timeout=60)[0]
    assert process.returncode == 0
    assert not list(temporary.glob('mmgcnl-explorer-*'))


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['nothing.png'], 'no image: nothing.png'),
        (['--block', 'neck'], "segmentor has no block 'neck'"),
        (['--names', 'a', 'b'], '--names: give 1 different names'),
        (['--compare', 'nothing.py', 'x.pth'], '--compare: no such file: nothing.py'),
        (['--port', '99999'], '--port 99999: give at most 65535'),
        (['--port', '0'], 'give a whole number of at least 1'),
    ],
)
def test_bad_arguments(arguments, message, call, trained, segmentor, capsys):
    with pytest.raises(SystemExit) as stop:
        call(TOOL, segmentor, trained(segmentor), *arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_same_config_twice_needs_names(call, trained, segmentor, capsys):
    checkpoint = trained(segmentor)
    with pytest.raises(SystemExit, match='2'):
        call(TOOL, segmentor, checkpoint, '--compare', segmentor, checkpoint)
    assert '--names: give 2 different names' in capsys.readouterr().err


def test_port_that_is_taken(call, trained, segmentor, capsys):
    import socket

    pytest.importorskip('gradio', reason='the explorer needs gradio')
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        with pytest.raises(SystemExit, match='2'):
            call(TOOL, segmentor, trained(segmentor), '--no-browser', '--port', port)
    assert f'port {port} of 127.0.0.1: Address already in use' in capsys.readouterr().err


def test_saved_view_is_drawn(call, trained, segmentor, squares, tmp_path, capsys):
    from mmgcnl.analysis.explorer import ModelSource, View, write_view

    source = ModelSource(str(segmentor), str(trained(segmentor)), 'decode_head.block')
    view = View((source,), str(squares / 'images/2.png'), (5, 6), 'attention uniform')
    write_view(view, tmp_path / 'view.json')
    out = tmp_path / 'out.png'
    arguments = ['--view', tmp_path / 'view.json', '--out', out]
    call('analysis_tools/visualize_attention', *arguments)
    assert out.stat().st_size > 1000
    with pytest.raises(SystemExit, match='2'):
        call('analysis_tools/visualize_attention', *arguments, '--point', '1,2')
    assert '--view: leave out' in capsys.readouterr().err
