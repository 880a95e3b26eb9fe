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
    norm_cfg = dict(type='GN', num_groups=4)
    block = registry.build(dict(type='GCNonLocal2d', in_channels=16, norm_cfg=norm_cfg))
    assert isinstance(block, mmgcnl.GCNonLocal2d)
    assert isinstance(block.norm, nn.GroupNorm)


def test_misspelt_option():
    with pytest.raises(TypeError, match=r'num_heds=4 is no option .*mean num_heads\?'):
        MODELS.build(dict(type='GCNonLocal2d', in_channels=16, num_heds=4))
    with pytest.raises(TypeError, match=r"colour='red' is no option of GCNonLocal2d: give"):
        MODELS.build(dict(type='GCNonLocal2d', in_channels=16, colour='red'))


LIBRARIES = ['mmdet', 'mmseg']
# As in a trained one, the last norm before a plugin is not zero.
RESNET = dict(
    type='ResNet',
    depth=50,
    base_channels=8,
    norm_cfg=dict(type='BN'),
    zero_init_residual=False,
)
STAGES = (False, True, False, False)


def plugin(position='after_conv3', **block):
    return dict(cfg=dict(type='GCNonLocal2d', **block), stages=STAGES, position=position)


def build_resnet(library, plugins):
    registry = pytest.importorskip(f'{library}.registry').MODELS
    init_default_scope(library)
    net = registry.build(dict(RESNET, plugins=plugins))
    net.init_weights()
    blocks = [m for m in net.modules() if isinstance(m, mmgcnl.GCNonLocal2d)]
    return net, blocks


def value_weights(net, block='gcnl_block'):
    return {
        name
        for name, _ in net.named_parameters()
        if f'.{block}.' in name and name.endswith('value.weight')
    }


def fill(blocks):
    for block in blocks:
        for parameter in block.parameters():
            nn.init.normal_(parameter, std=0.1)


def train_step(net, x):
    """Which parameters a step of training changes."""
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    net.train()
    loss = sum(level.mean() for level in net(x))
    assert loss.isfinite()
    loss.backward()
    optimizer.step()
    return {name for name, p in net.named_parameters() if not torch.equal(p, before[name])}


@pytest.mark.parametrize('library', LIBRARIES)
@pytest.mark.parametrize('norm_cfg', [None, dict(type='BN')])
def test_resnet_plugin(library, norm_cfg):
    """A fresh block changes nothing, a trained one does, and it learns."""
    plain, _ = build_resnet(library, None)
    net, blocks = build_resnet(library, [plugin(norm_cfg=norm_cfg)])
    assert len(blocks) == 4
    net.load_state_dict(plain.state_dict(), strict=False)
    x = torch.randn(2, 3, 32, 48)
    plain.eval(), net.eval()
    for a, b in zip(net(x), plain(x), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    changed = train_step(net, x)  # a fresh one starts to learn by its last layer
    last = 'norm.weight' if norm_cfg else 'out.weight'
    assert {name.replace('value.weight', last) for name in value_weights(net)} <= changed
    fill(blocks)
    net.eval()
    assert not torch.allclose(net(x)[1], plain(x)[1], atol=1e-3)
    assert value_weights(net) <= train_step(net, x)
    assert all(p.grad is not None for block in blocks for p in block.parameters())


@pytest.mark.parametrize('library', LIBRARIES)
@pytest.mark.parametrize('first_position', ['after_conv2', 'after_conv3'])
def test_two_plugins(library, first_position):
    """At one position, mmseg gives both the same input and drops the first's output."""
    plugins = [
        plugin(position, postfix=postfix, norm_cfg=dict(type='BN'))
        for position, postfix in ((first_position, '_1'), ('after_conv3', '_2'))
    ]
    net, blocks = build_resnet(library, plugins)
    assert len(blocks) == 2 * 4
    fill(blocks)
    changed = train_step(net, torch.randn(2, 3, 32, 48))
    first, second = (value_weights(net, f'gcnl_block{n}') for n in ('_1', '_2'))
    assert second <= changed
    dropped = library == 'mmseg' and first_position == 'after_conv3'
    assert first.isdisjoint(changed) if dropped else first <= changed
