"""tools/analysis_tools/benchmark_neck.py at a small size."""

import json
import sys

import pytest

from tests.builders import ROOT


def test_benchmark_neck(run, tmp_path):
    out = tmp_path / 'neck.json'
    tool = ROOT / 'tools/analysis_tools' / 'benchmark_neck.py'
    run(sys.executable, tool, *'--shape 70 64 --repeats 1 --json'.split(), out)
    written = json.loads(out.read_text())['results']
    assert list(written) == ['refine block', 'neck']
    assert list(written['neck']) == ['BFP', 'BFP, no refinement', 'EBFPN']
    assert all(c['error'] is None for group in written.values() for c in group.values())


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--repeats', '0'], '--repeats: 0: give a whole number of at least 1'),
        (['--shape', '0', '9'], '--shape: 0: give a whole number of at least 1'),
    ],
)
def test_bad_input(call, capsys, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        call('analysis_tools/benchmark_neck', *arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
