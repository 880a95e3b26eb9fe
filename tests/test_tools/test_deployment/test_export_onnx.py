"""tools/deployment/export_onnx.py: onnxruntime and OpenVINO give what PyTorch gives."""

import json
import math

import numpy as np
import pytest
import torch
from mmengine.config import Config
from torch import nn

for package in ('onnx', 'onnxscript', 'onnxruntime', 'openvino'):
    pytest.importorskip(package, reason=f'pip install {package}')

import onnx  # noqa: E402
import onnxruntime  # noqa: E402
import openvino  # noqa: E402

from mmgcnl.apis import init_model  # noqa: E402
from mmgcnl.deployment import TensorModel, export_onnx  # noqa: E402
from tests.builders import save_random_weights  # noqa: E402

pytestmark = pytest.mark.filterwarnings('ignore')  # torch's, of its own exporter

SHAPE = (64, 96)
# Neither multiples of anything, nor all of it large: coarse levels have size 1.
OTHER_SHAPES = [(96, 64), (80, 80), (45, 131), (20, 24), (160, 70)]

# Fewer levels than usual, for speed; the mean's size is neither the largest nor the least.
PYRAMID = {
    'model.neck': {'0': dict(num_outs=3), '1': dict(num_levels=3, refine_level=1)},
}


@pytest.fixture
def trained(request, tmp_path):
    """Config and checkpoint of a model whose block adds something."""

    def trained(name, **options):
        cfg = Config.fromfile(request.getfixturevalue(name))
        cfg.merge_from_dict(options)
        config = tmp_path / 'config.py'
        cfg.dump(config)
        return config, save_random_weights(config)

    return trained


def runtimes(path):
    """The file in onnxruntime and in OpenVINO, each as a function of the input."""
    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    # Where the CPU computes in bfloat16, OpenVINO does so unless asked for float32.
    options = {'INFERENCE_PRECISION_HINT': 'f32'}
    compiled = openvino.Core().compile_model(str(path), 'CPU', options)
    return (
        lambda x: session.run(None, {'input': x.numpy()}),
        lambda x: list(compiled(x.numpy()).values()),
    )


def assert_equal(outputs, expected):
    assert len(outputs) == len(expected)
    for output, truth in zip(outputs, expected):
        torch.testing.assert_close(torch.from_numpy(output), truth, rtol=1e-4, atol=1e-4)


def plainly(model, x):
    """The model without what the exporter wraps around it."""
    with torch.no_grad():
        if hasattr(model, 'encode_decode'):
            logits = model.decode_head(model.backbone(x))
            size = x.shape[2:]
            return [nn.functional.interpolate(logits, size, mode='bilinear')]
        return model.neck[1](model.neck[0](model.backbone(x)))


@pytest.mark.parametrize('dynamic', [False, True])
@pytest.mark.parametrize('kind', ['segmentor', 'detector'])
def test_equals_pytorch(call, trained, tmp_path, capsys, kind, dynamic):
    config, checkpoint = trained(kind, **(PYRAMID if kind == 'detector' else {}))
    out = tmp_path / 'new/model.onnx'
    options = ['--dynamic'] if dynamic else []
    call(
        'deployment/export_onnx',
        *(config, checkpoint, '--out', out, '--shape', *SHAPE, *options),
    )
    lines = capsys.readouterr().out.splitlines()
    assert sum(' x ' in line and 'e-' in line for line in lines) == (4 if dynamic else 1)
    model = init_model(config, str(checkpoint), 'cpu')
    unrefined = init_model(config, str(checkpoint), 'cpu')
    block = unrefined.neck[1].refine if kind == 'detector' else unrefined.decode_head.block
    nn.init.zeros_(block.out.weight), nn.init.zeros_(block.out.bias)
    run, run_openvino = runtimes(out)
    for shape in [SHAPE, *(OTHER_SHAPES if dynamic else [])]:
        x = torch.randn(1, 3, *shape)
        outputs = run(x)
        assert_equal(outputs, plainly(model, x))
        with pytest.raises(AssertionError):  # the block is in the file
            assert_equal(outputs, plainly(unrefined, x))
        assert_equal(run_openvino(x), plainly(model, x))
    batch = torch.randn(3, 3, *SHAPE)
    if dynamic:
        for runtime in (run, run_openvino):
            assert_equal(runtime(batch), plainly(model, batch))
    else:
        with pytest.raises(Exception, match='Got: 3 Expected: 1'):
            run(batch)
    proto = onnx.load(out)
    assert 'Scan' in {node.op_type for node in proto.graph.node}
    names = [output.name for output in proto.graph.output]
    assert names == (['output'] if kind == 'segmentor' else [f'level{i}' for i in range(3)])
    meta = {item.key: item.value for item in proto.metadata_props}
    assert json.loads(meta['mean']) == model.cfg.model.data_preprocessor.mean
    assert json.loads(meta['classes']) == list(model.dataset_meta['classes'])


@pytest.mark.parametrize('dense', [False, True])
def test_head(call, trained, tmp_path, dense):
    config, checkpoint = trained('detector', **PYRAMID)
    out = tmp_path / 'model.onnx'
    call(
        'deployment/export_onnx',
        *(config, checkpoint, '--out', out, '--shape', 64, 96, '--head'),
        *(['--dense'] if dense else []),
    )
    model = init_model(config, str(checkpoint), 'cpu')
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        scores, boxes = model._forward(x)
    for runtime in runtimes(out):
        assert_equal(runtime(x), [*scores, *boxes])
    proto = onnx.load(out)
    assert ('Scan' in {node.op_type for node in proto.graph.node}) != dense
    names = [output.name for output in proto.graph.output]
    assert names == [f'{n}{i}' for n in ('cls_scores', 'bbox_preds') for i in range(3)]


@pytest.mark.parametrize('binary', [False, True])
def test_labels(call, trained, tmp_path, binary):
    options = dict(num_classes=2, out_channels=1, threshold=0.45) if binary else {}
    config, checkpoint = trained(
        'segmentor', **{f'model.decode_head.{k}': v for k, v in options.items()}
    )
    model = init_model(config, str(checkpoint), 'cpu')
    x = torch.randn(1, 3, 32, 48)
    with torch.no_grad():  # let both labels be there
        logits = model.encode_decode(x, [dict(img_shape=x.shape[2:])])
        margin = logits[:, 0] if binary else logits[:, 0] - logits[:, 1]
        border = math.log(0.45 / 0.55) if binary else 0
        model.decode_head.conv_seg.bias[0] += border - (margin.min() + margin.max()) / 2
    torch.save(dict(state_dict=model.state_dict()), checkpoint)
    out = tmp_path / 'model.onnx'
    call(
        'deployment/export_onnx',
        *(config, checkpoint, '--out', out, '--shape', 32, 48, '--labels'),
    )
    (labels,) = runtimes(out)[0](x)
    assert (labels.shape, labels.dtype) == ((1, 1, 32, 48), np.int64)
    (truth,) = model.predict(x)  # mmseg's own way to labels
    assert (labels[0] == truth.pred_sem_seg.data.numpy()).mean() > 0.999
    assert set(np.unique(labels)) == {0, 1}


def test_difference_is_found(trained, tmp_path, call, capsys, monkeypatch):
    config, checkpoint = trained('segmentor')
    model = TensorModel(init_model(config, str(checkpoint), 'cpu'))
    path = tmp_path / 'model.onnx'
    export_onnx(model, path, (32, 32))
    monkeypatch.setattr('mmgcnl.deployment.export_onnx', lambda *args: None)
    with torch.no_grad():
        model.model.decode_head.conv_seg.bias += 1
    torch.save(dict(state_dict=model.model.state_dict()), checkpoint)
    with pytest.raises(SystemExit, match='does not compute what the model does'):
        call('deployment/export_onnx', config, checkpoint, '--out', path, '--shape', 32, 32)
    assert capsys.readouterr().out.splitlines()[-1].endswith('DIFFERS')


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['{config}', 'no.pth'], 'no such checkpoint: no.pth'),
        (['no.py', '{weights}'], 'config: no such file: no.py'),
        (
            ['{config}', '{weights}', '--out', 'model.pb'],
            'model.pb: give a name that ends',
        ),
        (
            ['{config}', '{weights}', '--shape', '0', '9'],
            '--shape: 0: give a whole number of at least 1',
        ),
        (
            ['{config}', '{weights}', '--verify-shape', '9', '9'],
            '--verify-shape: without --dynamic',
        ),
        (['{config}', '{weights}', '--head', '--dynamic'], '--head: the file takes one'),
        (['{config}', '{weights}', '--head'], 'EncoderDecoder is no single-stage detector'),
        (['{detector}', '{weights}'], 'does not fit'),
    ],
)
def test_wrong_input_is_one_line(
    call, request, trained, tmp_path, monkeypatch, capsys, arguments, message
):
    monkeypatch.chdir(tmp_path)
    paths = dict(zip(('config', 'weights'), trained('segmentor')))
    paths['detector'] = request.getfixturevalue('detector')
    arguments = ['--out', 'm.onnx', '--shape', '32', '32'] + [
        argument.format(**paths) for argument in arguments
    ]
    with pytest.raises(SystemExit) as stop:
        call('deployment/export_onnx', *arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / 'm.onnx').exists()


def test_labels_of_a_detector(call, trained, capsys):
    config, checkpoint = trained('detector')
    with pytest.raises(SystemExit):
        call(
            'deployment/export_onnx',
            *(config, checkpoint, '--out', 'm.onnx', '--shape', 32, 32, '--labels'),
        )
    assert 'RetinaNet is not a segmentor' in capsys.readouterr().err.splitlines()[-1]
