"""The decode head against mmseg's NLHead, from the config."""

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

NLHead = pytest.importorskip('mmseg.models.decode_heads').NLHead
from mmseg.registry import MODELS  # noqa: E402

from mmgcnl import GCNLHead, GCNonLocal2d  # noqa: E402
from mmgcnl.analysis import mean_cosine_distance  # noqa: E402
from tests.test_layers.blocks import randomize  # noqa: E402

HEAD = dict(
    in_channels=[8, 16],
    in_index=[0, 1],
    input_transform='resize_concat',
    channels=16,
    num_classes=5,
    dropout_ratio=0.1,
    norm_cfg=dict(type='BN'),
)
#: Options with which the block is mmcv's.
PLAIN = dict(num_heads=1, context=None, position=None, attn_drop_rate=0.0)


def features(height=8, width=10):
    half = (-(-height // 2), -(-width // 2))
    return [torch.randn(2, 8, height, width), torch.randn(2, 16, *half)]


def our_name(name: str) -> str:
    """GCNLHead's name of a parameter of mmseg's NLHead."""
    name = name.replace('nl_block.conv_out.bn', 'block.norm')
    for ours, theirs in dict(query='theta', key='phi', value='g', out='conv_out').items():
        name = name.replace(f'nl_block.{theirs}.conv', f'block.{ours}')
    return name


@pytest.mark.parametrize('concat_input', [True, False])
def test_equals_nl_head_without_priors(concat_input):
    theirs = randomize(NLHead(**HEAD, concat_input=concat_input)).double().eval()
    cfg = dict(type='GCNLHead', **HEAD, concat_input=concat_input, block=PLAIN)
    ours = MODELS.build(cfg).double().eval()
    state = theirs.state_dict()
    ours.load_state_dict({our_name(name): value for name, value in state.items()})
    x = [level.double() for level in features()]
    torch.testing.assert_close(ours(x), theirs(x))
    theirs.nl_block = nn.Identity()
    assert not torch.allclose(ours(x), theirs(x), atol=1e-2)


def test_fresh_head_is_fcn_head():
    """After init_weights the block adds nothing: what is left is mmseg's FCNHead."""
    fcn = MODELS.build(dict(type='FCNHead', **HEAD)).eval()
    ours = GCNLHead(**HEAD).eval()
    randomize(ours.block)
    ours.init_weights()
    missing, unexpected = ours.load_state_dict(fcn.state_dict(), strict=False)
    assert not unexpected
    assert all(name.startswith('block.') for name in missing)
    x = features()
    torch.testing.assert_close(ours(x), fcn(x))


def test_plain_head_starts_as_nl_head():
    """The drawn weights have the same distributions, also after init_weights."""
    torch.manual_seed(0)
    options = dict(in_channels=8, channels=512, num_classes=5, norm_cfg=dict(type='BN'))
    theirs = NLHead(**options)
    ours = GCNLHead(**options, block=dict(PLAIN, init='normal'))
    for drawn_anew in (False, True):
        if drawn_anew:
            theirs.init_weights()
            ours.init_weights()
        our_state = ours.state_dict()
        for name, weight in theirs.nl_block.state_dict(prefix='nl_block.').items():
            if weight.dtype is not torch.float32:
                continue  # BN's counter
            assert moments(our_state[our_name(name)]) == pytest.approx(
                moments(weight), rel=0.03, abs=1e-3
            ), name

    # Attention that starts uniform is what tells the two ways to start apart.
    x = torch.randn(1, 512, 12, 10).relu()  # as after the convolution, BN and ReLU
    attention = ours.block.attention_weights(x)
    assert mean_cosine_distance(attention).item() < 1e-3
    selective = GCNLHead(**options, block=dict(PLAIN, init='xavier')).block
    assert mean_cosine_distance(selective.attention_weights(x)).item() > 0.05


def moments(weight: torch.Tensor) -> list[float]:
    """Mean, standard deviation and the fourth root of the fourth moment."""
    weight = weight.double()
    deviation = weight - weight.mean()
    return [
        weight.mean().item(),
        deviation.square().mean().sqrt().item(),
        deviation.pow(4).mean().pow(0.25).item(),
    ]


def test_block_options_come_from_the_config():
    head = GCNLHead(**HEAD, block=dict(reduction=1, num_heads=2, kv_stride=2))
    assert isinstance(head.block, GCNonLocal2d)
    assert head.block.query.out_channels == 16
    assert (head.block.num_heads, head.block.kv_stride) == (2, 2)
    assert isinstance(head.block.norm, nn.BatchNorm2d)
    assert isinstance(GCNLHead(**HEAD, block=dict(norm_cfg=None)).block.norm, nn.Identity)


def test_wrong_block_option_is_named():
    with pytest.raises(ValueError, match='num_heads=3 does not divide'):
        GCNLHead(**HEAD, block=dict(num_heads=3))
    with pytest.raises(TypeError, match='heads'):
        GCNLHead(**HEAD, block=dict(heads=3))


def test_compiles_once_for_all_sizes():
    head = randomize(GCNLHead(**HEAD)).eval()
    torch._dynamo.reset()
    counter = CompileCounterWithBackend('aot_eager')
    compiled = torch.compile(head, fullgraph=True, backend=counter)
    for size in [(8, 12), (10, 10), (6, 16), (9, 13), (16, 4), (11, 7)]:
        inputs = [x.requires_grad_() for x in features(*size)]
        results = []
        for function in (compiled, head):
            logits = function(inputs)
            results.append([logits, *torch.autograd.grad(logits.square().mean(), inputs)])
        torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)
    # One for the first size, one for every other.
    assert counter.frame_count <= 2


def test_traces_for_any_size():
    head = randomize(GCNLHead(**HEAD, block=dict(kv_stride=2))).eval()
    with pytest.warns(torch.jit.TracerWarning):  # of checks of the shape
        traced = torch.jit.trace(head, (features(),), check_trace=False)
    for size in [(8, 10), (10, 10), (5, 16), (9, 13)]:
        inputs = features(*size)
        torch.testing.assert_close(traced(inputs), head(inputs))
