"""tools/model_converters/nonlocal_to_gcnl.py: the converted model starts as its source."""

import pytest
import torch
from mmengine.config import Config
from torch import nn

import mmgcnl
from mmgcnl.apis import build_model, init_model
from mmgcnl.deployment import TensorModel

TOOL = 'model_converters/nonlocal_to_gcnl'
PYRAMID = dict(type='EBFPN', in_channels=16, num_levels=5, refine_level=1)
# Of a plugin's block, 32 channels wide, in a ResNet-50 of base_channels 8.
PLUGIN = dict(stages=(True, False, False, False), position='after_conv3')


def make_detector(cfg, **neck):
    cfg.model.neck[1] = neck


def bfp(cfg, **options):
    bfp = dict(type='BFP', in_channels=16, num_levels=5, refine_level=1)
    make_detector(cfg, **bfp, refine_type='non_local', **options)


def ebfpn(cfg, neck=PYRAMID, **options):
    block = dict(type='GCNonLocal2d', reduction=1, num_heads=1, scale=1.0)
    make_detector(cfg, **neck, refine={**block, **options})


def nl_head(cfg, norm_cfg=None, **options):
    head = cfg.model.decode_head
    head.pop('block', None)
    head.update(type='NLHead', norm_cfg=norm_cfg, **options)


def gcnl_head(cfg, norm_cfg=None, **options):
    block = dict(num_heads=1, **options)
    cfg.model.decode_head.update(type='GCNLHead', norm_cfg=norm_cfg, block=block)


def plugin(cfg, **block):
    cfg.model.backbone.update(
        type='ResNet', depth=50, plugins=[dict(PLUGIN, cfg=dict(block))]
    )
    cfg.model.decode_head.update(type='FCNHead', in_channels=256, num_convs=1)
    cfg.model.decode_head.pop('block', None)


def nl_plugin(cfg):
    plugin(cfg, type='NonLocal2d', postfix='_a')


def gcnl_plugin(cfg, **options):
    plugin(cfg, type='GCNonLocal2d', postfix='_a', num_heads=1, **options)


PRIORS = [
    dict(),
    dict(context='max', position='absolute_raw'),
    dict(context=None, position='relative_sinusoid_content_independent'),
]


@pytest.fixture
def pair(request, tmp_path):
    """Paths: the source's config and checkpoint, with values everywhere; ours; out."""

    def pair(kind, source, target, source_options=None, **options):
        paths = []
        for name, change in (('source', source), ('target', target)):
            cfg = Config.fromfile(request.getfixturevalue(kind))
            cfg.norm_cfg = dict(type='BN')
            if kind == 'segmentor':
                cfg.model.backbone.norm_cfg = dict(type='BN')
            change(cfg, **((source_options or {}) if name == 'source' else options))
            paths.append(tmp_path / f'{name}.py')
            cfg.dump(paths[-1])
        model = build_model(Config.fromfile(paths[0]))
        for parameter in model.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_normal_(parameter, gain=1.5)
            else:
                nn.init.normal_(parameter, std=0.3)
        torch.save(dict(state_dict=model.state_dict()), tmp_path / 'source.pth')
        return paths[0], tmp_path / 'source.pth', paths[1], tmp_path / 'new/target.pth'

    return pair


def outputs(config, checkpoint, x):
    model = init_model(config, str(checkpoint), 'cpu')
    return model, TensorModel(model).outputs(x)


BFP = 'detector', bfp, ebfpn
HEAD = 'segmentor', nl_head, gcnl_head
BN = dict(norm_cfg=dict(type='BN'))


@pytest.mark.parametrize(
    ('kind', 'source', 'target', 'theirs', 'ours'),
    [
        (*BFP, {}, {}),
        *((*HEAD, {}, priors) for priors in PRIORS),
        (*HEAD, dict(use_scale=False), dict(scale=1.0)),
        (*HEAD, BN, BN),
        ('segmentor', nl_plugin, gcnl_plugin, {}, {}),
    ],
)
def test_starts_the_same_and_learns(call, pair, capsys, kind, source, target, theirs, ours):
    paths = pair(kind, source, target, theirs, **ours)
    call(TOOL, *paths)
    printed = capsys.readouterr().out
    assert 'largest difference of the outputs: ' in printed
    x = torch.randn(2, 3, 70, 90)
    old, expected = outputs(*paths[:2], x)
    new, result = outputs(*paths[2:], x)
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)
    assert new.dataset_meta == old.dataset_meta

    # Neither did the block add nothing, nor are its priors dead.
    block = next(m for m in new.modules() if isinstance(m, mmgcnl.GCNonLocal2d))
    features = torch.randn(2, block.in_channels, 5, 7)
    block.train()
    output = block(features)
    assert not torch.allclose(output, features, atol=1e-2)
    output.square().mean().backward()
    for name, parameter in block.named_parameters():
        # The u of a content-independent form meets a weight of 0, at first.
        if name != 'position.u':
            assert parameter.grad.abs().max() > 0


def test_more_blocks_than_the_source_has(call, pair):
    """Blocks of ours without a counterpart add nothing at first."""

    def with_plugins(cfg, head, *plugins):
        head(cfg)
        cfg.model.backbone.update(type='ResNet', depth=50, plugins=list(plugins))
        cfg.model.decode_head.update(in_channels=256)

    plugin = dict(PLUGIN, cfg=dict(type='GCNonLocal2d'))
    paths = pair(
        'segmentor',
        lambda cfg: with_plugins(cfg, nl_head),
        lambda cfg: with_plugins(cfg, gcnl_head, plugin),
    )
    call(TOOL, *paths)
    x = torch.randn(1, 3, 64, 64)
    expected, result = (outputs(*path, x)[1] for path in (paths[:2], paths[2:]))
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ('options', 'reason'),
    [
        (dict(num_heads=2), 'num_heads=2, the source has 1'),
        (dict(kv_stride=2), 'kv_stride=2, the source has 1'),
        (dict(scale=None), "its scale is 0.25, the source's 1: set scale=1.0"),
    ],
)
def test_difference_is_refused_or_measured(call, pair, capsys, options, reason):
    paths = pair('detector', bfp, ebfpn, **options)
    with pytest.raises(SystemExit) as stop:
        call(TOOL, *paths)
    assert stop.value.code == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert f'neck.1.refine: {reason}' in message
    assert '--allow-difference' in message
    assert not paths[-1].exists()

    call(TOOL, *paths, '--allow-difference')
    printed = capsys.readouterr().out
    assert f'cannot be the same: neck.1.refine: {reason}' in printed
    measured = float(printed.split('largest difference of the outputs: ')[1].split()[0])
    assert measured > 1e-4
    x = torch.randn(1, 3, 96, 160)
    expected, result = (outputs(*path, x)[1] for path in (paths[:2], paths[2:]))
    with pytest.raises(AssertionError):
        torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)


def test_difference_outside_of_the_blocks(call, pair, capsys):
    paths = pair('detector', bfp, ebfpn, neck=dict(PYRAMID, refine_level=2))
    with pytest.raises(SystemExit):
        call(TOOL, *paths)
    message = capsys.readouterr().err.splitlines()[-1]
    assert 'something other than the blocks is not the same' in message


@pytest.mark.parametrize(
    ('kind', 'source', 'target', 'theirs', 'ours', 'reason'),
    [
        (*HEAD, BN, {}, 'has more than the config, namely'),
        (*HEAD, {}, BN, 'the source has no weights for'),
        (*HEAD, dict(mode='concatenation'), {}, "nl_block has mode='concatenation'"),
        (*BFP, {}, dict(reduction=2), 'has another shape of'),
        ('detector', bfp, bfp, {}, {}, 'no GCNonLocal2d neck.1.refine for the weights of'),
        ('detector', ebfpn, ebfpn, {}, {}, 'the source has no NonLocal2d'),
    ],
)
def test_misfit_is_refused_in_spite_of_allow_difference(
    call, pair, capsys, kind, source, target, theirs, ours, reason
):
    paths = pair(kind, source, target, theirs, **ours)
    with pytest.raises(SystemExit) as stop:
        call(TOOL, *paths, '--allow-difference')
    assert stop.value.code == 2
    assert reason in capsys.readouterr().err.splitlines()[-1]
    assert not paths[-1].exists()


def test_dot_product_is_measured(call, pair, capsys):
    paths = pair('segmentor', nl_head, gcnl_head, dict(mode='dot_product'))
    call(TOOL, *paths, '--allow-difference')
    assert "mode='dot_product'" in capsys.readouterr().out


def test_wrong_input_is_one_line(call, pair, capsys):
    source, checkpoint, target, out = pair('segmentor', nl_head, gcnl_head)
    for arguments, message in (
        ((source, 'no.pth', target, out), 'no such checkpoint: no.pth'),
        (('no.py', checkpoint, target, out), 'source_config: no such file: no.py'),
        ((source, checkpoint, target, 'out.bin'), 'out: out.bin: give a name that ends'),
        ((target, checkpoint, target, out), 'does not fit'),
    ):
        with pytest.raises(SystemExit) as stop:
            call(TOOL, *arguments)
        assert stop.value.code == 2
        assert message in capsys.readouterr().err.splitlines()[-1]
