"""Configs whose types are classes, and the dumped ones, whose types are whole paths."""

import json

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from mmgcnl.apis import Inferencer
from mmgcnl.engine import build_runner
from tests.builders import forget_instances, write_new_style

FROM_SCRATCH = ('--cfg-options', 'model.backbone.init_cfg=None')


@pytest.fixture
def new_detector(detector):
    return write_new_style(detector)


@pytest.fixture
def new_segmentor(segmentor):
    return write_new_style(segmentor)


def test_training_resumes_exactly(call, new_detector, tmp_path):
    whole, parts = tmp_path / 'whole', tmp_path / 'parts'
    call('train', new_detector, '--work-dir', whole, *FROM_SCRATCH)
    first = whole / 'iter_1.pth'
    call('train', new_detector, '--work-dir', parts, '--resume', first, *FROM_SCRATCH)
    expected, found = (
        torch.load(folder / 'iter_2.pth', weights_only=True)['state_dict']
        for folder in (whole, parts)
    )
    for key, value in expected.items():
        assert torch.equal(found[key], value), key

    # The config that the training has left in its work dir.
    checkpoint = whole / 'iter_2.pth'
    (dumped,) = whole.glob('*.py')
    assert Config.fromfile(dumped).model.type.startswith('mmdet.')
    out = tmp_path / 'predictions.pkl'
    call('test', dumped, checkpoint, '--work-dir', tmp_path / 'test', '--out', out)
    assert out.is_file()
    (metrics,) = (tmp_path / 'test').glob('*/*.json')
    assert 'coco/bbox_mAP' in json.loads(metrics.read_text())


@pytest.mark.parametrize('config', ['new_detector', 'new_segmentor'])
def test_data_and_inference(call, request, squares, tmp_path, config, capsys):
    config = request.getfixturevalue(config)
    call('check_data', config, '--out', tmp_path / 'data.png')
    assert 'no fault in ' in capsys.readouterr().out
    cfg = Config.fromfile(config)
    cfg.work_dir = str(tmp_path / 'work')
    cfg.model.backbone.init_cfg = None
    forget_instances()
    runner = build_runner(cfg)
    assert type(runner) is not Runner
    weights = tmp_path / 'weights.pth'
    torch.save(runner.model.state_dict(), weights)
    inferencer = Inferencer(config, str(weights), 'cpu', show_progress=False)
    assert inferencer.scope == ('mmdet' if 'detector' in config.name else 'mmseg')
    result = inferencer(str(squares / 'images/1.png'), return_vis=True)
    assert not result['failed'] and len(result['visualization']) == 1


def test_test_time_augmentation(call, new_segmentor, tmp_path):
    weights, folder = tmp_path / 'weights.pth', tmp_path / 'maps'
    call('train', new_segmentor, '--work-dir', tmp_path, '--amp', 'bf16', *FROM_SCRATCH)
    (tmp_path / 'iter_2.pth').rename(weights)
    call('test', new_segmentor, weights, '--tta', '--out', folder)
    assert len(list(folder.glob('*.png'))) == 5
