"""tools/analysis_tools/benchmark_attention.py at a small size."""

import json
import sys

import pytest

from mmgcnl.layers import IMPLEMENTATIONS
from tests.builders import ROOT


def test_benchmark_attention(run, tmp_path):
    out = tmp_path / 'new' / 'attention.json'
    small = '--height 12 --width 9 --channels 16 --heads 2 --repeats 1'.split()
    small += ['--scales', '0.5', '1']
    others = set(IMPLEMENTATIONS) - {'blockwise', 'triton'}
    skip = ['--skip', 'ours, dropout 0.1', *(f'ours, {name}' for name in others)]
    tool = ROOT / 'tools/analysis_tools' / 'benchmark_attention.py'
    said = run(sys.executable, tool, *small, '--mode', 'train', '--json', out, *skip)
    written = json.loads(out.read_text())
    assert written['mode'] == 'train'
    for key in ('hardware', 'threads', 'torch', 'mmcv'):
        assert written[key]
    assert 'revision' in written  # None outside of a checkout
    assert list(written['results']) == ['6x4', '12x9']
    for contenders in written['results'].values():
        assert list(contenders) == [
            'floor',
            'NonLocal2d',
            'GeneralizedAttention',
            'ours, blockwise',
        ]
        assert all(c['error'] is None for c in contenders.values())
        assert all(c['median_seconds'] > 0 for c in contenders.values())
    assert out.with_suffix('.png').exists()
    assert 'ours, blockwise' in said


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--height', '0'], '--height: 0: give a whole number of at least 1'),
        (['--heads', '3'], '--channels 256 is not divisible by 4 x'),
        (['--skip', 'floor'], '--skip: cannot leave out floor'),
    ],
)
def test_bad_input(call, capsys, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        call('analysis_tools/benchmark_attention', *arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
