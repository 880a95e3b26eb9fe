"""A segmentor and a detector with random weights, and an explorer of each."""

import pytest
import torch

from mmgcnl.analysis.explorer import Explorer, ModelSource
from tests.builders import (
    draw_squares,
    save_random_weights,
    write_detector,
    write_segmentor,
)

# A map of 4 x 4 cells: with one cell there would be nothing to see.
LARGE_MAP = dict(strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4))
PLAIN = dict(
    type='GCNLHead', block=dict(context=None, position=None, num_heads=1, attn_drop_rate=0)
)


def source(config, block):
    """Give a model random weights whose attention and contexts are far from uniform."""
    path = save_random_weights(config)
    saved = torch.load(path)
    for layer in ('query', 'context.fc'):
        if (key := f'{block}.{layer}.weight') in saved['state_dict']:
            saved['state_dict'][key] *= 30
    torch.save(saved, path)
    return ModelSource(str(config), str(path))


@pytest.fixture(scope='session')
def squares(tmp_path_factory):
    """Folder of 5 images (32, 32) with one bright square each, label maps and boxes."""
    root = tmp_path_factory.mktemp('squares')
    draw_squares(root)
    return root


@pytest.fixture(scope='session')
def segmentors(tmp_path_factory, squares):
    """Sources of two: both priors, and a plain block."""
    folder = tmp_path_factory.mktemp('segmentors')
    configs = [
        write_segmentor(folder / 'ours.py', squares, LARGE_MAP),
        write_segmentor(folder / 'plain.py', squares, LARGE_MAP, PLAIN),
    ]
    return [source(path, 'decode_head.block') for path in configs]


@pytest.fixture(scope='session')
def explorer(segmentors):
    """Of both segmentors, on the data set of the first."""
    return Explorer(segmentors, split='test', device='cpu')


@pytest.fixture(scope='session')
def detector(tmp_path_factory, squares):
    """An explorer of a RetinaNet with EBFPN."""
    path = tmp_path_factory.mktemp('detector') / 'detector.py'
    config = write_detector(path, squares, scale=(256, 256))
    return Explorer([source(config, 'neck.1.refine')], split='test', device='cpu')
