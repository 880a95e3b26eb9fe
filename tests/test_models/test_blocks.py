"""The registered block: found by name everywhere, and the identity after init_weights."""

import pytest
import torch
from torch import nn

pytest.importorskip('mmcv')
from mmengine.registry import MODELS, init_default_scope  # noqa: E402

import mmgcnl  # noqa: E402


@pytest.mark.parametrize('library', ['mmdet', 'mmseg'])
def test_built_by_name(library):
    registry = pytest.importorskip(f'{library}.registry').MODELS
    block = registry.build(dict(type='GCNonLocal2d', in_channels=16))
    assert isinstance(block, mmgcnl.GCNonLocal2d)
    assert isinstance(block, mmgcnl.layers.GCNonLocal2d)


def test_norm_cfg():
    block = MODELS.build(
        dict(type='GCNonLocal2d', in_channels=16, norm_cfg=dict(type='GN', num_groups=4))
    )
    assert isinstance(block.norm, nn.GroupNorm)


@pytest.mark.parametrize('library', ['mmdet', 'mmseg'])
@pytest.mark.parametrize('norm_cfg', [None, dict(type='BN')])
def test_resnet_plugin(library, norm_cfg):
    """A fresh block changes nothing, a trained one does.

    mmdet: two at one position. mmseg's ResNet gives each the same input and drops the
    output of all but the last.
    """
    registry = pytest.importorskip(f'{library}.registry').MODELS
    init_default_scope(library)
    cfg = dict(type='ResNet', depth=50, base_channels=8, norm_cfg=dict(type='BN'))
    block = dict(type='GCNonLocal2d', norm_cfg=norm_cfg)
    plugins = [
        dict(
            cfg=dict(block, postfix=postfix),
            stages=(False, True, True, False),
            position='after_conv3',
        )
        for postfix in (('_1', '_2') if library == 'mmdet' else ('_1',))
    ]
    plain = registry.build(cfg)
    net = registry.build(dict(cfg, plugins=plugins))
    blocks = [m for m in net.modules() if isinstance(m, mmgcnl.GCNonLocal2d)]
    assert len(blocks) == len(plugins) * (4 + 6)
    plain.init_weights()
    net.init_weights()
    net.load_state_dict(plain.state_dict(), strict=False)
    x = torch.randn(2, 3, 64, 48)
    plain.eval(), net.eval()
    for a, b in zip(net(x), plain(x), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    for module in blocks:
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.3)
    assert not torch.allclose(net(x)[1], plain(x)[1], atol=1e-3)
    net.train()
    sum(level.mean() for level in net(x)).backward()
    assert all(p.grad is not None for block in blocks for p in block.parameters())
