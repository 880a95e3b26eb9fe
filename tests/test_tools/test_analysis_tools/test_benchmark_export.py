"""tools/analysis_tools/benchmark_export.py at a small size."""

import json
import sys

import pytest

from tests.builders import ROOT


def test_benchmark_export(run, tmp_path):
    for package in ('onnx', 'onnxscript', 'onnxruntime'):
        pytest.importorskip(package, reason=f'pip install {package}')
    out = tmp_path / 'new' / 'export.json'
    small = ['--channels', 16, '--heads', 2, '--repeats', 1, '--json', out]
    tool = ROOT / 'tools/analysis_tools' / 'benchmark_export.py'
    run(sys.executable, tool, '--sizes', '9x7', *small)
    results = json.loads(out.read_text())['results']
    assert list(results) == ['9x7']
    assert list(results['9x7']) == ['PyTorch', 'ONNX, Scan', 'ONNX, dense']
    assert all(c['error'] is None for c in results['9x7'].values())


@pytest.mark.parametrize('size', ['9', '9x', '0x9', 'axb'])
def test_wrong_size(call, capsys, size):
    with pytest.raises(SystemExit) as stopped:
        call('analysis_tools/benchmark_export', '--sizes', size)
    assert stopped.value.code == 2
    assert f'{size!r} is not a size such as 97x97' in capsys.readouterr().err
