"""Export to ONNX and comparison in onnxruntime, of a small segmentor."""

import os
import sys

import pytest
import torch
from mmengine.config import Config

for package in ('onnx', 'onnxscript', 'onnxruntime'):
    pytest.importorskip(package, reason=f'pip install {package}')

import onnx  # noqa: E402

from mmgcnl.apis import init_model  # noqa: E402
from mmgcnl.deployment import (  # noqa: E402
    TOLERANCE,
    TensorModel,
    describe_preprocessing,
    export_onnx,
    onnx_differences,
    shapes_to_verify,
)
from tests.builders import write_inference_model  # noqa: E402

pytestmark = pytest.mark.filterwarnings('ignore')  # torch's, of its own exporter


@pytest.fixture
def model(tmp_path):
    return TensorModel(init_model(*write_inference_model(tmp_path, 'semantic'), 'cpu'))


def test_difference_is_found(model, tmp_path):
    path = tmp_path / 'model.onnx'
    export_onnx(model, path, (32, 32))
    ((shape, difference),) = onnx_differences(model, path, [(32, 32)])
    assert shape == (32, 32)
    assert difference <= TOLERANCE
    bias = model.model.decode_head.conv_seg.bias
    with torch.no_grad():
        bias += 1e-2
    ((_, difference),) = onnx_differences(model, path, [(32, 32)])
    assert difference > TOLERANCE
    with torch.no_grad():
        bias[0] = torch.nan
    ((_, difference),) = onnx_differences(model, path, [(32, 32)])
    assert not difference <= TOLERANCE
    with pytest.raises(
        ValueError, match='onnxruntime fails at 40 x 32: .*invalid dimensions'
    ):
        list(onnx_differences(model, path, [(40, 32)]))


def test_file_that_cannot_be_loaded(model, tmp_path):
    path = tmp_path / 'model.onnx'
    path.write_bytes(b'nothing')
    with pytest.raises(ValueError, match='onnxruntime cannot load .*onnx: .*--dense'):
        list(onnx_differences(model, path, [(32, 32)]))


@pytest.mark.parametrize('dense', [False, True])
def test_the_environment_does_not_choose_the_form(model, tmp_path, monkeypatch, dense):
    monkeypatch.setenv('MMGCNL_ATTENTION', 'blockwise')
    path = tmp_path / 'model.onnx'
    export_onnx(model, path, (32, 32), dense=dense)
    nodes = {node.op_type for node in onnx.load(path).graph.node}
    assert ('Scan' in nodes) != dense
    assert os.environ['MMGCNL_ATTENTION'] == 'blockwise'


@pytest.mark.parametrize('package', ['onnx', 'onnxscript', 'onnxruntime'])
def test_missing_package_is_named(model, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=f'{package} is missing: pip install'):
        if package == 'onnxruntime':
            list(onnx_differences(model, tmp_path / 'm.onnx', [(32, 32)]))
        else:
            export_onnx(model, tmp_path / 'm.onnx', (32, 32))


@pytest.mark.parametrize('shape', [(512, 1024), (100, 100), (64, 33)])
def test_shapes_to_verify_are_others(shape):
    shapes = shapes_to_verify(shape)
    assert len({shape, *shapes}) == 4
    assert all(min(size) > 0 for size in shapes)
    smaller = shapes[-1]
    assert smaller[0] < shape[0] and smaller[1] < shape[1]


def test_preprocessing_is_what_changes_the_values():
    settings = dict(type='A', mean=[1.0], std=[2.0], bgr_to_rgb=True, pad_size_divisor=0)
    expected = dict(bgr_to_rgb=True, mean=[1.0], std=[2.0])
    inside = Config(dict(model=dict(data_preprocessor=settings)))
    outside = Config(dict(model=dict(), data_preprocessor=settings))
    for cfg in (inside, outside):
        assert describe_preprocessing(cfg) == expected
