from pathlib import Path

import pytest
import torch
from mmcv.cnn import NonLocal2d
from mmcv.cnn.bricks import GeneralizedAttention
from mmengine.config import Config
from torch.utils.flop_counter import FlopCounterMode

from mmgcnl.analysis.complexity import attention_flops, measure_complexity
from mmgcnl.layers import POSITION_FORMS, GCNonLocal2d

ROOT = Path(__file__).parents[2]
MASK_RCNN = 'configs/ebfpn/mask-rcnn_r50_fpn_1x_coco.py'


@pytest.mark.parametrize('position', [None, *POSITION_FORMS])
@pytest.mark.parametrize('kv_stride', [1, 2])
def test_attention_flops_are_those_of_the_reference(position, kv_stride):
    """torch's own count of the logits' matrix products, and the product with the values."""
    block = GCNonLocal2d(32, num_heads=2, position=position, kv_stride=kv_stride)
    x = torch.randn(2, 32, 7, 10)
    with FlopCounterMode(display=False) as counter:
        block.attention_weights(x)
    ops = counter.get_flop_counts()['Global']
    # Layers are convolutions and, with a bias, addmm.
    seen = sum(n for op, n in ops.items() if str(op) in ('aten.mm', 'aten.bmm')) / 2
    grid = 7 * 10
    keys = grid if kv_stride == 1 else 4 * 5
    assert attention_flops(block, x.shape) == seen + 2 * grid * keys * 16


@pytest.mark.parametrize('sub_sample, keys', [(False, 70), (True, 3 * 5)])
def test_attention_flops_of_non_local(sub_sample, keys):
    block = NonLocal2d(32, reduction=2, sub_sample=sub_sample)
    assert attention_flops(block, torch.Size((2, 32, 7, 10))) == 2 * 2 * 70 * keys * 16


# mmcv's '0100' alone works on square maps only.
@pytest.mark.parametrize('attention_type', ['1111', '1000', '0100', '0010', '0001'])
@pytest.mark.parametrize('kv_stride', [1, 2])
def test_attention_flops_of_generalized_attention(attention_type, kv_stride):
    block = GeneralizedAttention(
        32, num_heads=2, kv_stride=kv_stride, attention_type=attention_type
    )
    x = torch.randn(2, 32, 8, 8 if attention_type == '0100' else 11)
    with FlopCounterMode(display=False) as counter:
        block(x)
    ops = counter.get_flop_counts()['Global']
    # Layers are convolutions and mm.
    seen = sum(n for op, n in ops.items() if str(op) == 'aten.bmm') / 2
    assert attention_flops(block, x.shape) == seen


def test_todays_convention():
    """All parameters, 80 classes, transposed convolutions at the size of their input."""
    cfg = Config.fromfile(ROOT / MASK_RCNN)
    cost = measure_complexity(cfg)
    assert f'{cost.flops / 1e9:.2f}' == '260.14'
    assert f'{cost.params / 1e6:.2f}' == '44.40'
    assert cost.attention_flops == 0


def test_unknown_convention():
    with pytest.raises(ValueError, match="convention='old': give one of"):
        measure_complexity(Config(), convention='old')


def test_unsupported_roi_head():
    cfg = Config.fromfile(ROOT / MASK_RCNN)
    cfg.model.roi_head.type = 'DoubleHeadRoIHead'
    cfg.model.roi_head.reg_roi_scale_factor = 1.3
    with pytest.raises(ValueError, match="roi_head='DoubleHeadRoIHead' cannot be counted"):
        measure_complexity(cfg)
