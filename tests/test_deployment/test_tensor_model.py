"""Models as functions of one tensor."""

import pytest
import torch
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


def test_detector(tmp_path):
    model = init_model(*write_inference_model(tmp_path, 'instance'), 'cpu')
    x = torch.randn(1, 3, 64, 96)
    outputs = TensorModel(model).outputs(x)
    assert list(outputs) == [f'level{i}' for i in range(5)]
    with torch.no_grad():
        expected = model.neck(model.backbone(x))
    torch.testing.assert_close(tuple(outputs.values()), expected)
    with pytest.raises(ValueError, match='MaskRCNN is no segmentor: labels=True needs one'):
        TensorModel(model, labels=True)


def test_neither():
    with pytest.raises(ValueError, match='Linear is neither a segmentor .* nor a detector'):
        TensorModel(nn.Linear(1, 1))


def test_size_that_the_model_cannot_take(tmp_path):
    model = init_model(*write_inference_model(tmp_path, 'semantic'), 'cpu')
    with pytest.raises(ValueError, match='cannot take an image of 1 x 1: '):
        TensorModel(model).outputs(torch.randn(1, 3, 1, 1))
