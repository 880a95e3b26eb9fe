"""Models as functions of one tensor."""

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.utils import get_installed_path
from torch import nn

from mmgcnl.apis import init_model
from mmgcnl.deployment import TensorModel
from tests.builders import write_inference_model


@pytest.mark.parametrize('labels', [False, True])
def test_segmentor(tmp_path, labels):
    model = init_model(*write_inference_model(tmp_path, 'semantic'), 'cpu')
    x = torch.randn(2, 3, 33, 50)
    (output,) = TensorModel(model, labels).outputs(x).values()
    with torch.no_grad():
        logits = model.decode_head(model.backbone(x))
        logits = nn.functional.interpolate(logits, (33, 50), mode='bilinear')
    expected = logits.argmax(1, keepdim=True) if labels else logits
    torch.testing.assert_close(output, expected)


def test_binary_labels_of_a_cascade(tmp_path):
    model = init_model(*write_inference_model(tmp_path, 'semantic'), 'cpu')
    x = torch.tensor([-1.0, 0.5, 3.0]).reshape(1, 1, 1, 3)
    model.encode_decode = lambda image, metas: image
    first, last = nn.Identity(), nn.Identity()
    first.threshold, last.threshold = 0.1, 0.9
    model.decode_head = nn.ModuleList([first, last])
    (output,) = TensorModel(model, labels=True).outputs(x).values()
    assert output.flatten().tolist() == [0, 0, 1]


def test_detector(tmp_path):
    model = init_model(*write_inference_model(tmp_path, 'instance'), 'cpu')
    x = torch.randn(1, 3, 64, 96)
    outputs = TensorModel(model).outputs(x)
    assert list(outputs) == [f'level{i}' for i in range(5)]
    with torch.no_grad():
        expected = model.neck(model.backbone(x))
    torch.testing.assert_close(tuple(outputs.values()), expected)
    with pytest.raises(ValueError, match='is not a segmentor: labels=True needs one'):
        TensorModel(model, labels=True)


def test_neither():
    with pytest.raises(ValueError, match='Linear is neither a segmentor .* nor a detector'):
        TensorModel(nn.Linear(1, 1))


def test_size_that_the_model_cannot_take(tmp_path):
    model = init_model(*write_inference_model(tmp_path, 'semantic'), 'cpu')
    with pytest.raises(ValueError, match='cannot take an image of 1 x 1: '):
        TensorModel(model).outputs(torch.randn(1, 3, 1, 1))


def single_stage(name):
    """A small detector of mmdet's own config, with EBFPN behind its FPN."""
    path = get_installed_path('mmdet')
    cfg = Config.fromfile(f'{path}/.mim/configs/{name}').model
    cfg.backbone = dict(type='ResNet', depth=18, num_stages=4, init_cfg=None)
    cfg.neck.in_channels = [64, 128, 256, 512]
    cfg.neck.out_channels = 32
    cfg.neck = [cfg.neck, dict(type='EBFPN', in_channels=32, num_levels=5)]
    cfg.bbox_head.update(in_channels=32, feat_channels=64, num_classes=3, stacked_convs=1)
    init_default_scope('mmdet')
    model = MODELS.build(cfg).eval()
    for parameter in model.neck[1].parameters():
        nn.init.normal_(parameter, std=0.1)
    return model


SINGLE_STAGE = {
    'retinanet/retinanet_r50_fpn_1x_coco.py': ['cls_scores', 'bbox_preds'],
    'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py': [
        'cls_scores',
        'bbox_preds',
        'centernesses',
    ],
}


@pytest.mark.parametrize('name', SINGLE_STAGE)
def test_head(name):
    model = single_stage(name)
    x = torch.randn(1, 3, 64, 96)
    outputs = TensorModel(model, head=True).outputs(x)
    names = SINGLE_STAGE[name]
    assert list(outputs) == [f'{name}{i}' for name in names for i in range(5)]
    with torch.no_grad():
        expected = model._forward(x)  # mmdet's own way to the raw outputs
    expected = [level for levels in expected for level in levels]
    torch.testing.assert_close(list(outputs.values()), expected)


def test_head_of_another_model(tmp_path):
    model = init_model(*write_inference_model(tmp_path, 'instance'), 'cpu')
    with pytest.raises(ValueError, match='MaskRCNN is no single-stage detector'):
        TensorModel(model, head=True)
