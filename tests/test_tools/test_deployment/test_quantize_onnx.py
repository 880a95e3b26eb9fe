"""tools/deployment/quantize_onnx.py: the copies predict what the exported file does."""

import json
import logging
import re

import pytest
from mmengine.config import Config

for package in ('onnx', 'onnxscript', 'onnxruntime'):
    pytest.importorskip(package, reason=f'pip install {package}')

import onnx  # noqa: E402

from tests.builders import save_random_weights  # noqa: E402

pytestmark = pytest.mark.filterwarnings('ignore')  # torch's, of its own exporter

FORMS = ('float16', 'static', 'dynamic')


@pytest.fixture(autouse=True)
def _logging():
    yield
    logging.disable(logging.NOTSET)  # the tool, in a process of its own, leaves it off


def export(call, config, path, *options):
    weights = save_random_weights(config)
    shape = ('--shape', 32, 32, '--no-verify')
    call('deployment/export_onnx', config, weights, '--out', path, *shape, *options)
    return weights


def test_copies_are_compared(call, segmentor, tmp_path, capsys):
    path = tmp_path / 'model.onnx'
    export(call, segmentor, path)
    capsys.readouterr()
    call('deployment/quantize_onnx', segmentor, path, '--images', 2)
    rows = re.findall(r'^\|(.*)\|$', capsys.readouterr().out, re.MULTILINE)
    header, *rows = ([cell.strip() for cell in row.split('|')] for row in rows)
    assert header == ['file', 'aAcc', 'mIoU', 'mAcc', 'MiB', 'CPU time']
    files = [f'model{form}.onnx' for form in ('', *(f'_{form}' for form in FORMS))]
    assert [row[0] for row in rows] == files
    assert rows[0][-1] == '1.00'
    accuracy = [float(row[1]) for row in rows]
    assert accuracy[1] == pytest.approx(accuracy[0], abs=1)
    sizes = [(tmp_path / name).stat().st_size for name in files]
    assert max(sizes[1:]) < sizes[0]
    for form, operator in zip(FORMS, ('Cast', 'QuantizeLinear', 'ConvInteger')):
        graph = onnx.load(tmp_path / f'model_{form}.onnx').graph
        assert operator in {node.op_type for node in graph.node}


def test_metrics_are_those_of_the_model(call, segmentor, tmp_path, capsys):
    """Images and labels reach the file as they reach the model in tools/test.py."""
    path = tmp_path / 'model.onnx'
    weights = export(call, segmentor, path)
    call('test', segmentor, weights, '--work-dir', tmp_path / 'work')
    (metrics,) = (tmp_path / 'work').glob('*/*.json')
    expected = json.loads(metrics.read_text())['aAcc']
    call('deployment/quantize_onnx', segmentor, path, '--images', 1)
    row = capsys.readouterr().out.split('model.onnx')[-1].splitlines()[0]
    assert row.split('|')[1].strip() == f'{expected:.2f}'


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--labels'], 'its output is no logits: export it without --labels'),
        (['--shape', 48, 48], 'Got invalid dimensions .*; export it with --dynamic'),
    ],
)
def test_unsuitable_file(call, segmentor, tmp_path, capsys, options, message):
    path = tmp_path / 'model.onnx'
    export(call, segmentor, path, *options)
    with pytest.raises(SystemExit) as stop:
        call('deployment/quantize_onnx', segmentor, path, '--images', 1)
    assert stop.value.code == 2
    assert re.search(f'{re.escape(str(path))}: .*{message}', capsys.readouterr().err)


def test_detector(call, detector, tmp_path, capsys):
    path = tmp_path / 'model.onnx'
    path.touch()
    with pytest.raises(SystemExit):
        call('deployment/quantize_onnx', detector, path)
    assert 'RetinaNet is not a segmentor' in capsys.readouterr().err.splitlines()[-1]


def test_missing_test_data_is_named(call, segmentor, tmp_path, capsys):
    cfg = Config.fromfile(segmentor)
    cfg.pop('test_dataloader')
    cfg.dump(segmentor)
    with pytest.raises(SystemExit):
        call('deployment/quantize_onnx', segmentor, segmentor)
    assert 'test_dataloader' in capsys.readouterr().err.splitlines()[-1]
