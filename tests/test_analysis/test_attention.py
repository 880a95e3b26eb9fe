"""From an image to the attention over its pixels, through a pipeline and a model."""

import copy
from contextlib import nullcontext

import numpy as np
import pytest
from mmengine.config import ConfigDict
from mmengine.dataset import Compose
from mmengine.model import BaseModel
from mmengine.registry import init_default_scope
from mmseg.models import SegDataPreProcessor
from torch import nn

from mmgcnl.analysis import attention_at, mean_queries
from mmgcnl.layers import GCNonLocal2d

PIPELINES = {
    'as it is': [],
    'resized': [dict(type='Resize', scale=(120, 90), keep_ratio=True)],
    'padded, flipped': [
        dict(type='Resize', scale=(150, 100), keep_ratio=False),
        dict(type='Pad', size=(160, 120)),
        dict(type='RandomFlip', prob=1.0),
    ],
}


class Bright(BaseModel):
    """Whose every query looks at the brightest place of the image."""

    def __init__(self, kv_stride=1):
        # pads to a size that is neither the image's nor a multiple of it
        super().__init__(
            SegDataPreProcessor([0.0] * 3, [255.0] * 3, test_cfg=dict(size=(208, 216)))
        )
        self.test_cfg = None
        self.block = GCNonLocal2d(
            *(1, 1, 1), context=None, position=None, kv_stride=kv_stride, scale=300.0
        )
        nn.init.zeros_(self.block.query.weight)
        nn.init.ones_(self.block.query.bias)
        nn.init.ones_(self.block.key.weight)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        self.block(nn.functional.avg_pool2d(inputs.mean(1, keepdim=True), 4))
        return data_samples


@pytest.mark.parametrize('name', PIPELINES)
@pytest.mark.parametrize('kv_stride', [1, 2])
@pytest.mark.parametrize('spot', [(20, 12), (50, 70), (77, 37)])
def test_peak_is_where_the_image_is_bright(name, kv_stride, spot):
    init_default_scope('mmseg')
    pipeline = Compose(
        [dict(type='InferencerLoader'), *PIPELINES[name], dict(type='PackSegInputs')]
    )
    model = Bright(kv_stride).eval()
    rows, columns = np.mgrid[:80, :100]
    x, y = spot[0], spot[1]
    image = 255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 100)
    image = image[..., None].repeat(3, 2).astype(np.uint8)
    points = [(0, 0), (99, 79), spot]
    maps, _ = attention_at(model, pipeline, image, points)
    assert maps.shape == (3, 1, 80, 100)
    for heads in maps:
        peak = np.argwhere(heads[0] == heads[0].max()).mean(0)
        # the center of the brightest key, of at most 4 x 4 pixels per position
        assert np.abs(peak - (y, x)).max() <= 4 * kv_stride
    assert not model.block._forward_hooks
    assert not model.data_preprocessor._forward_hooks


@pytest.mark.parametrize('point', [(3, 4), (300, 4)], ids=['inside', 'outside'])
def test_slide_mode_is_left_as_it_was(point):
    """And is off in between, also if it fails: a window would be in an unknown place."""
    init_default_scope('mmseg')
    pipeline = Compose([dict(type='InferencerLoader'), dict(type='PackSegInputs')])
    model = Bright().eval()
    model.test_cfg = ConfigDict(mode='slide', crop_size=(64, 64), stride=(32, 32))
    before = copy.deepcopy(model.test_cfg)
    modes = []
    model.block.register_forward_hook(lambda *_: modes.append(model.test_cfg.mode))
    image = np.zeros((80, 100, 3), np.uint8)
    with nullcontext() if point[0] < 100 else pytest.raises(ValueError, match='outside'):
        attention_at(model, pipeline, image, [point])
    assert modes[0] == 'whole'
    assert model.test_cfg == before


def test_which_block():
    init_default_scope('mmseg')
    pipeline = Compose([dict(type='InferencerLoader'), dict(type='PackSegInputs')])
    model = Bright().eval()
    image = np.zeros((80, 100, 3), np.uint8)
    with pytest.raises(ValueError, match="no block 'other'; there are: block"):
        attention_at(model, pipeline, image, [(0, 0)], 'other')
    model.second = Bright().block
    with pytest.raises(ValueError, match='several blocks, choose one .*: block, second'):
        attention_at(model, pipeline, image, [(0, 0)])
    attention_at(model, pipeline, image, [(0, 0)], 'block')


def test_mean_queries_have_a_row_for_each_point_and_a_map_for_each_model():
    a, b = np.random.rand(2, 3, 4, 5), np.random.rand(2, 1, 6, 7)
    first, second = mean_queries([(1, 2), (3, 4)], {'a': a, 'b': b})
    assert (first.title, second.title) == ('query 1', 'query 2')
    assert (first.point, second.point) == ((1, 2), (3, 4))
    assert list(second.maps) == ['a, mean of heads', 'b, mean of heads']
    np.testing.assert_allclose(second.maps['a, mean of heads'], a[1].mean(0))
    np.testing.assert_allclose(first.maps['b, mean of heads'], b[0, 0])
