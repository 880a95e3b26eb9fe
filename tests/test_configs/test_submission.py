"""Files for the benchmarks' servers."""

import json

import numpy as np
import pytest
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import save_checkpoint
from PIL import Image
from pycocotools.coco import COCO


@pytest.fixture
def submit(reduced, run_tool, tmp_path):
    """Predict with an untrained model of a config, into the folder out."""
    return lambda path: predict(reduced(path), run_tool, tmp_path)


def predict(cfg, run_tool, tmp_path):
    cfg.dump(tmp_path / 'small.py')
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    save_checkpoint(
        dict(state_dict=model.state_dict(), meta={}), str(tmp_path / 'model.pth')
    )
    run_tool(
        'test',
        tmp_path / 'small.py',
        tmp_path / 'model.pth',
        '--work-dir',
        tmp_path,
        '--submission',
        tmp_path / 'out',
    )


def test_coco(drawn, submit, tmp_path):
    submit('configs/ebfpn/mask-rcnn_r50_fpn_ebfpn_1x_coco.py')
    truth = COCO(str(drawn / 'coco/annotations/image_info_test-dev2017.json'))
    for kind in ('bbox', 'segm'):
        path = tmp_path / f'out/detections_test-dev2017_small_results.{kind}.json'
        results = truth.loadRes(str(path))
        assert len(results.anns) == len(json.loads(path.read_text())) > 0
        assert set(results.getImgIds()) == {1, 2}
        for ann in results.anns.values():
            assert 1 <= ann['category_id'] <= 80
            if kind == 'segm':
                assert results.annToMask(ann).shape == (48, 64)


def test_cityscapes(drawn, submit, tmp_path):
    labels = pytest.importorskip('cityscapesscripts.helpers.labels')
    submit('configs/cityscapes/gcnl_r50-d8_4xb2-89k_cityscapes-769x769.py')
    images = (drawn / 'cityscapes/leftImg8bit/test').rglob('*.png')
    files = sorted((tmp_path / 'out').glob('*.png'))
    assert [path.name for path in files] == sorted(path.name for path in images)
    allowed = {label.id for label in labels.labels if not label.ignoreInEval}
    for path in files:
        image = Image.open(path)
        assert image.size == (64, 48)
        assert set(np.unique(np.array(image))) <= allowed
