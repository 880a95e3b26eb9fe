"""tools/analysis_tools/benchmark_neck.py at a small size."""

import json
import sys
from argparse import Namespace

import pytest
import torch
from mmdet.models import StandardRoIHead

from tests.builders import ROOT, load_tool


def test_benchmark_neck(run, tmp_path):
    out = tmp_path / 'neck.json'
    tool = ROOT / 'tools/analysis_tools' / 'benchmark_neck.py'
    run(sys.executable, tool, *'--shape 70 64 --repeats 1 --json'.split(), out)
    written = json.loads(out.read_text())['results']
    assert list(written) == ['refine block', 'neck']
    assert list(written['neck']) == ['BFP', 'BFP, no refinement', 'EBFPN']
    assert all(c['error'] is None for group in written.values() for c in group.values())


def test_detectors_get_the_same_regions(monkeypatch):
    # Otherwise the ratio of their times is one of the regions' sizes, too.
    tool = load_tool('analysis_tools/benchmark_neck')
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
