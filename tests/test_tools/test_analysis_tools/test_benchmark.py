"""tools/analysis_tools/benchmark.py at small sizes."""

import json
import sys
from argparse import Namespace

import pytest
import torch
from mmdet.models import StandardRoIHead

from mmgcnl.layers import IMPLEMENTATIONS
from tests.builders import ROOT, fork_contenders, load_tool


@pytest.fixture
def benchmark(monkeypatch):
    """Call the tool; its contenders are measured in copies of this process."""
    tool = load_tool('analysis_tools/benchmark')
    monkeypatch.setitem(sys.modules, tool.__name__, tool)  # for pickle
    fork_contenders(monkeypatch)

    def call(*arguments):
        tool.main([*map(str, arguments), '--threads', '1'])

    return call


def test_attention(benchmark, tmp_path, capsys):
    out = tmp_path / 'new' / 'attention.json'
    small = '--height 12 --width 9 --channels 16 --heads 2 --repeats 1'.split()
    small += ['--scales', '0.5', '1']
    others = set(IMPLEMENTATIONS) - {'blockwise', 'triton'}
    skip = ['--skip', 'ours, dropout 0.1', *(f'ours, {name}' for name in others)]
    benchmark('attention', *small, '--mode', 'train', '--json', out, *skip)
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
    assert 'ours, blockwise' in capsys.readouterr().out


def test_neck(benchmark, tmp_path):
    out = tmp_path / 'neck.json'
    benchmark('neck', *'--shape 70 64 --repeats 1 --json'.split(), out)
    written = json.loads(out.read_text())['results']
    assert list(written) == ['refine block', 'neck']
    assert list(written['neck']) == ['BFP', 'BFP, no refinement', 'EBFPN']
    assert all(c['error'] is None for group in written.values() for c in group.values())


def test_detectors_get_the_same_regions(monkeypatch):
    # Otherwise the ratio of their times is one of the regions' sizes, too.
    tool = load_tool('analysis_tools/benchmark')
    args = Namespace(shape=[64, 96], batch=1, device='cpu', dtype='float32', mode='infer')
    args.config = ROOT / 'configs/ebfpn/mask-rcnn_r50_fpn_ebfpn_1x_coco.py'
    predict = StandardRoIHead.predict
    seen = []

    def spy(head, features, regions, *others, **options):
        seen.append(regions[0].bboxes)
        return predict(head, features, regions, *others, **options)

    monkeypatch.setattr(StandardRoIHead, 'predict', spy)
    for build in tool.detector_contenders(args).values():
        build()()
    assert len(seen) == 3
    assert all(torch.equal(regions, seen[0]) for regions in seen)
    width, height = seen[0][:, 2:].amax(0).tolist()
    assert 64 < width <= 96
    assert height <= 64


def test_export(benchmark, tmp_path):
    for package in ('onnx', 'onnxscript', 'onnxruntime'):
        pytest.importorskip(package, reason=f'pip install {package}')
    out = tmp_path / 'new' / 'export.json'
    small = ['--channels', 16, '--heads', 2, '--repeats', 1, '--json', out]
    benchmark('export', '--sizes', '9x7', *small)
    results = json.loads(out.read_text())['results']
    assert list(results) == ['9x7']
    assert list(results['9x7']) == ['PyTorch', 'ONNX, Scan', 'ONNX, dense']
    assert all(c['error'] is None for c in results['9x7'].values())


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['attention', '--height', '0'], '--height: 0: give a whole number of at least 1'),
        (['attention', '--heads', '3'], '--channels 256 is not divisible by 4 x'),
        (['attention', '--skip', 'floor'], '--skip: cannot leave out floor'),
        *(
            (['export', '--sizes', size], f'{size!r} is not a size such as 97x97')
            for size in ('9', '9x', '0x9')
        ),
        (
            ['export', '--skip', 'ONNX'],
            '--skip: cannot leave out ONNX; choose from ONNX, Scan',
        ),
        ([], 'the following arguments are required: benchmark'),
    ],
)
def test_bad_input(call, capsys, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        call('analysis_tools/benchmark', *arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
