import pytest
import torch
from mmcv.cnn import NonLocal2d
from mmcv.cnn.bricks import GeneralizedAttention
from mmdet.models.backbones import ResNet
from mmdet.models.necks import BFP
from mmseg.models.decode_heads import DNLHead, NLHead
from torch import nn

from mmgcnl import EBFPN, GCNLHead, GCNonLocal2d
from mmgcnl.analysis import attention_by_query, find_blocks, grids, iter_attention
from mmgcnl.analysis import blocks as blocks_module


def filled(module):
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.4)
    return module.eval()


def value_path(block, x, weights):
    """The block's output, made from the attention by other means than the block's."""
    if isinstance(block, GCNonLocal2d):
        value = block.value(block.kv_pool(x))
        end = lambda y: x + block.norm(block.out(y))  # noqa: E731
    elif isinstance(block, GeneralizedAttention):
        keys = block.kv_downsample(x) if block.kv_downsample else x
        value = block.value_conv(keys)

        def end(y):
            y = block.proj_conv(y)
            if block.q_stride > 1:
                y = nn.functional.interpolate(y, x.shape[2:], mode='bilinear')
            return x + block.gamma * y
    else:
        value = block.g(x)
        end = lambda y: x + block.conv_out(y)  # noqa: E731
    heads = weights.shape[1]
    value = value.flatten(2).unflatten(1, (heads, -1)).transpose(2, 3)
    y = (weights @ value).transpose(2, 3).flatten(1, 2)
    return end(y.unflatten(2, grids(block, x.shape[2:])[0].size))


@pytest.mark.parametrize(
    'block',
    [
        GCNonLocal2d(8, reduction=1, num_heads=2, kv_stride=2),
        GCNonLocal2d(8, reduction=2, num_heads=1, context=None, position=None),
        GCNonLocal2d(8, num_heads=4, norm_layer=nn.BatchNorm2d),
        *(NonLocal2d(8, mode=m) for m in ('embedded_gaussian', 'dot_product')),
        NonLocal2d(8, mode='concatenation'),
        NonLocal2d(8, reduction=1, mode='gaussian'),
        NonLocal2d(8, sub_sample=True, norm_cfg=dict(type='BN')),
        GeneralizedAttention(8, num_heads=2, kv_stride=2),
        GeneralizedAttention(8, num_heads=2, q_stride=2, kv_stride=1),
        GeneralizedAttention(8, num_heads=2, attention_type='0010'),
    ],
)
@pytest.mark.parametrize('chunk', [2**24, 64])
def test_attention_is_the_one_of_the_forward_pass(block, chunk, monkeypatch):
    monkeypatch.setattr(blocks_module, '_CHUNK', chunk)
    filled(block)
    x = torch.randn(2, 8, 5, 6)
    chunks = list(iter_attention(block, x))
    if chunk == 64:
        assert max(part.shape[2] for part in chunks) < 8
    weights = torch.cat(chunks, dim=2)
    queries, keys = grids(block, (5, 6))
    assert weights.shape[2:] == (
        queries.size[0] * queries.size[1],
        keys.size[0] * keys.size[1],
    )
    torch.testing.assert_close(value_path(block, x, weights), block(x))
    of_query = attention_by_query(block, x[:1])
    for number in range(weights.shape[2]):
        torch.testing.assert_close(of_query(number), weights[0, :, number])


def test_reading_the_attention_does_not_change_the_block():
    block = filled(NonLocal2d(8, norm_cfg=dict(type='BN')))
    before = dict(vars(block))
    state = {name: value.clone() for name, value in block.state_dict().items()}
    list(iter_attention(block, torch.randn(1, 8, 4, 4)))
    assert vars(block) == before
    for name, value in block.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_finds_blocks_wherever_they_are():
    head = dict(in_channels=8, channels=8, num_classes=2, norm_cfg=None)
    plugin = dict(
        cfg=dict(type='GCNonLocal2d', num_heads=2),
        stages=(False, False, True, False),
        position='after_conv3',
    )
    model = nn.ModuleDict(
        dict(
            backbone=ResNet(18, base_channels=8, stem_channels=8),
            plugged=ResNet(50, base_channels=8, stem_channels=8, plugins=[plugin]),
            ebfpn=EBFPN(8, 3, refine_level=1),
            plain=EBFPN(8, 3, refine=None),
            bfp=BFP(8, 3, refine_level=1, refine_type='non_local'),
            ours=GCNLHead(block=dict(num_heads=2), **head),
            nl=NLHead(**head),
            dnl=DNLHead(**head),
            ga=GeneralizedAttention(8, num_heads=1),
        )
    )
    assert list(find_blocks(model)) == [
        *(f'plugged.layer3.{i}.gcnl_block' for i in range(6)),
        'ebfpn.refine',
        'bfp.refine',
        'ours.block',
        'nl.nl_block',
        'dnl.dnl_block',
        'ga',
    ]
    with pytest.raises(ValueError, match='ResNet has no non-local block .*NonLocal2d'):
        find_blocks(model['backbone'])


@pytest.mark.parametrize(
    ('block', 'centers'),
    [
        (GCNonLocal2d(8, num_heads=2, kv_stride=1), [0.5, 1.5, 2.5, 3.5, 4.5]),
        # every second position is taken ...
        (GCNonLocal2d(8, num_heads=2, kv_stride=2), [0.5, 2.5, 4.5]),
        (GeneralizedAttention(8, num_heads=1, kv_stride=2), [0.5, 2.5, 4.5]),
        # ... or two positions are pooled, and the last one is left out
        (NonLocal2d(8, sub_sample=True), [1.0, 3.0]),
    ],
)
def test_grid_of_keys(block, centers):
    keys = grids(block, (5, 1))[1]
    assert keys.centers(0).tolist() == centers
    assert keys.cells(keys.centers(0), 0).tolist() == list(range(len(centers)))
