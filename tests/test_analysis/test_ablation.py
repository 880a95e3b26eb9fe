import pytest
import torch
from mmcv.cnn import NonLocal2d
from mmcv.cnn.bricks import GeneralizedAttention
from torch import nn

from mmgcnl.analysis import (
    ABLATIONS,
    ablated,
    ablations_of,
    attention_by_query,
    iter_attention,
    record_contexts,
)
from mmgcnl.layers import GCNonLocal2d
from mmgcnl.layers.position import POSITION_FORMS


def filled(block):
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.4)
    return block.double().eval()


@pytest.fixture
def x():
    return torch.randn(3, 8, 4, 5, dtype=torch.float64)


@pytest.mark.parametrize(
    'block',
    [
        *(GCNonLocal2d(8, num_heads=1, position=form) for form in POSITION_FORMS),
        GCNonLocal2d(8, num_heads=2, kv_stride=2, norm_layer=nn.BatchNorm2d),
        GCNonLocal2d(8, num_heads=2, implementation='blockwise'),
        GCNonLocal2d(8, num_heads=1, context=None, position=None),
        *(NonLocal2d(8, mode=m) for m in ('embedded_gaussian', 'dot_product')),
        NonLocal2d(8, mode='concatenation'),
        NonLocal2d(8, reduction=1, mode='gaussian', sub_sample=True),
        GeneralizedAttention(8, num_heads=2, kv_stride=2),
    ],
)
def test_uniform_is_global_average_pooling(block, x):
    filled(block)
    before = block(x)
    with ablated(block, 'attention uniform'):
        output = block(x)
        # The same is added everywhere: what the mean of the values makes.
        added = output - x
        torch.testing.assert_close(added, added[..., :1, :1].expand_as(added))
        # It is also what one reads.
        weights = torch.cat(list(iter_attention(block, x)), dim=2)
        torch.testing.assert_close(weights, torch.ones_like(weights) / weights.shape[3])
        of_query = attention_by_query(block, x[:1])
    torch.testing.assert_close(of_query(3), weights[0, :, 3])
    assert not torch.allclose(before, output)
    assert torch.equal(block(x), before)
    if isinstance(block, GCNonLocal2d):
        value = block.value(block.kv_pool(x)).mean((2, 3), keepdim=True)
        torch.testing.assert_close(added[..., :1, :1], block.norm(block.out(value)))


@pytest.mark.parametrize('form', POSITION_FORMS)
def test_position_zeroed(form, x):
    block = filled(GCNonLocal2d(8, num_heads=2, position=form))
    plain = filled(GCNonLocal2d(8, num_heads=2, position=None))
    plain.load_state_dict(block.state_dict(), strict=False)
    with ablated(block, 'position zeroed'):
        torch.testing.assert_close(block(x), plain(x))
    assert not torch.allclose(block(x), plain(x))


@pytest.mark.parametrize('form', POSITION_FORMS)
def test_offsets_shuffled(form):
    """The codes of each query are the same, at other keys."""
    x = torch.randn(2, 8, 12, 14, dtype=torch.float64)
    block = filled(GCNonLocal2d(8, num_heads=2, position=form, kv_stride=2))
    before = block.attention_inputs(x).position
    with ablated(block, 'offsets shuffled'):
        after = block.attention_inputs(x).position
        assert torch.equal(after.rows, block.attention_inputs(x).position.rows)
        output = block(x)
    assert not torch.allclose(output, block(x))
    for name in ('rows', 'columns'):
        one, other = getattr(before, name), getattr(after, name)
        assert not torch.equal(one, other)
        torch.testing.assert_close(one.sort(dim=1).values, other.sort(dim=1).values)


@pytest.mark.parametrize('batches', [(3,), (1, 2), (1, 1, 1)])
def test_contexts(batches, x):
    block = filled(GCNonLocal2d(8, num_heads=2))
    with record_contexts(block) as contexts:
        for batch in x.split(batches):
            block(batch)
    context, factor = block.context(x)
    own = context * factor
    torch.testing.assert_close(torch.stack(contexts), own)

    def outputs():
        return torch.cat([block(batch) for batch in x.split(batches)])

    with ablated(block, 'context mean', contexts):
        mean = outputs()
    with ablated(block, 'context swapped', contexts):
        swapped = outputs()
    assert not torch.allclose(mean, swapped)
    # Made with other contexts by the layer's bias alone, the same for every image.
    context = block.context.fc
    with torch.no_grad():
        context.weight.zero_()
        for output, expected in ((mean, [own.mean(0)] * 3), (swapped, own.roll(-1, 0))):
            for i, image in enumerate(x):
                context.bias.copy_(expected[i].flatten())
                torch.testing.assert_close(output[i : i + 1], block(image[None]))


def test_faults(x):
    block = GCNonLocal2d(8, num_heads=1, context=None)
    allowed = "'position zeroed', 'offsets shuffled', 'attention uniform'"
    with pytest.raises(ValueError, match=f"ablation='context mean'.*{allowed}"):
        with ablated(block, 'context mean'):
            pass
    block = GCNonLocal2d(8, num_heads=1)
    with pytest.raises(ValueError, match='needs the contexts of the data set'):
        with ablated(block, 'context swapped'):
            pass
    with record_contexts(block) as contexts:
        block(x[:1].float())
    with pytest.raises(ValueError, match='at least two images'):
        with ablated(block, 'context swapped', contexts):
            pass
    with ablated(block, 'context mean', contexts):
        block(x[:1].float())
        with pytest.raises(ValueError, match='more images than the 1'):
            block(x[:1].float())


def test_ablation_removes_its_hooks_after_an_error(x):
    block = GCNonLocal2d(8, num_heads=1).double()
    with record_contexts(block) as contexts:
        block(x)
    for ablation in ablations_of(block):
        with pytest.raises(KeyError):
            with ablated(block, ablation, contexts):
                raise KeyError
    assert set(ablations_of(block)) == set(ABLATIONS)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in block.modules())
