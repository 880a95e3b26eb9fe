"""The block against a brute-force loop, against mmcv's blocks, and its invariances."""

import itertools
import math

import pytest
import torch
from torch import nn

from mmgcnl.layers import POSITION_FORMS, GCNonLocal2d
from mmgcnl.layers.gc_non_local import INITS
from tests.test_layers.blocks import make_block, randomize

FORMS = [None, *POSITION_FORMS]


def brute_force(block: GCNonLocal2d, x: torch.Tensor, context: str | None) -> torch.Tensor:
    """The block's formula, one query and one key at a time, r_ij made for each pair."""
    batch, _, height, width = x.shape
    stride, heads = block.kv_stride, block.num_heads
    conv = lambda layer, vector: layer.weight[:, :, 0, 0] @ vector + layer.bias  # noqa: E731
    dims = block.query.weight.shape[0] // heads

    def code(axis: nn.Module, distance: str, encoding: str, i: int, j: int, size: int):
        delta = float(i - j) if distance == 'relative' else float(j)
        if encoding == 'raw':
            delta = abs(delta) / size
            return axis.weight[:, 0] * delta
        count = axis.weight.shape[1] // 2
        angles = [delta / axis.wavelength ** (k / count) for k in range(count)]
        values = [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
        return axis.weight @ torch.tensor(values, dtype=x.dtype)

    out = x.clone()
    for b in range(batch):
        flat = x[b].flatten(1)
        pooled = flat.mean(1) if context == 'avg' else flat.amax(1)
        c = 1.0
        if context is not None:
            c = (block.context.fc.weight @ pooled + block.context.fc.bias).view(heads, dims)
        for yi, xi in itertools.product(range(height), range(width)):
            q = conv(block.query, x[b, :, yi, xi]).view(heads, dims)
            rows, columns = range(0, height, stride), range(0, width, stride)
            keys = list(itertools.product(rows, columns))
            logits, values = [], []
            for yj, xj in keys:
                k = conv(block.key, x[b, :, yj, xj]).view(heads, dims)
                logit = (q * c * k).sum(1)
                if block.position is not None:
                    distance, encoding, content = POSITION_FORMS[block.position.form]
                    r = code(block.position.y, distance, encoding, yi, yj, height)
                    r = r + code(block.position.x, distance, encoding, xi, xj, width)
                    position_query = q if content else block.position.u
                    logit = logit + (position_query * r.view(heads, dims)).sum(1)
                logits.append(block.scale * logit)
                values.append(conv(block.value, x[b, :, yj, xj]).view(heads, dims))
            attention = torch.stack(logits).softmax(0)
            y = (attention[..., None] * torch.stack(values)).sum(0).flatten()
            out[b, :, yi, xi] += conv(block.out, y)
    return out


@pytest.mark.parametrize('kv_stride', [1, 2])
@pytest.mark.parametrize('num_heads', [1, 4])
@pytest.mark.parametrize('context', ['avg', 'max', None])
@pytest.mark.parametrize('position', FORMS)
def test_equals_brute_force(position, context, num_heads, kv_stride):
    block = make_block(
        16,
        reduction=2,
        num_heads=num_heads,
        context=context,
        position=position,
        kv_stride=kv_stride,
        scale=None if kv_stride == 1 else 0.7,
        wavelength=10000.0 if num_heads == 1 else 50.0,
    )
    x = torch.randn(2, 16, 3, 4, dtype=torch.float64)
    expected = brute_force(block, x, context)
    assert (expected - x).abs().max() > 0.1
    torch.testing.assert_close(block(x), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize('reduction', [1, 2])
def test_equals_mmcv_non_local_without_priors(reduction):
    NonLocal2d = pytest.importorskip('mmcv.cnn').NonLocal2d
    theirs = randomize(NonLocal2d(16, reduction=reduction)).double()
    ours = make_block(
        reduction=reduction, num_heads=1, context=None, position=None, attn_drop_rate=0.0
    )
    pairs = {'query': 'theta', 'key': 'phi', 'value': 'g', 'out': 'conv_out'}
    for name, their_name in pairs.items():
        conv = getattr(theirs, their_name).conv
        getattr(ours, name).load_state_dict(conv.state_dict())
    x = torch.randn(2, 16, 5, 7, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x))
    assert not torch.allclose(ours(x), x, atol=1e-2)


def test_equals_mmcv_generalized_attention_without_context():
    GeneralizedAttention = pytest.importorskip(
        'mmcv.cnn.bricks.generalized_attention'
    ).GeneralizedAttention
    theirs = GeneralizedAttention(16, num_heads=4, kv_stride=2, attention_type='1111')
    randomize(theirs).double()
    nn.init.zeros_(theirs.appr_bias)
    nn.init.zeros_(theirs.geom_bias)
    same = dict(kv_stride=2, scale=1.0, wavelength=1000.0)
    ours = make_block(16, reduction=1, num_heads=4, context=None, **same)
    with torch.no_grad():
        for name in ('query', 'key', 'value'):
            getattr(ours, name).weight.copy_(getattr(theirs, f'{name}_conv').weight)
            getattr(ours, name).bias.zero_()
        ours.out.weight.copy_(theirs.proj_conv.weight * theirs.gamma)
        ours.out.bias.copy_(theirs.proj_conv.bias * theirs.gamma)
        ours.position.x.weight.copy_(theirs.appr_geom_fc_x.weight / 2**0.5)
        ours.position.y.weight.copy_(theirs.appr_geom_fc_y.weight / 2**0.5)
    x = torch.randn(2, 16, 5, 8, dtype=torch.float64)
    # Theirs makes the wavelengths as a float32 tensor first.
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(ours(x), x, atol=1e-2)


@pytest.mark.parametrize('kv_stride', [1, 2])
@pytest.mark.parametrize('position', FORMS)
def test_gradients(position, kv_stride):
    block = make_block(4, reduction=1, num_heads=1, position=position, kv_stride=kv_stride)
    x = torch.randn(1, 4, 2, 3, dtype=torch.float64, requires_grad=True)
    parameters = dict(block.named_parameters())

    def function(x, *values):
        return torch.func.functional_call(block, dict(zip(parameters, values)), (x,))

    assert torch.autograd.gradcheck(function, (x, *parameters.values()))


@pytest.mark.parametrize('norm_layer', [None, nn.BatchNorm2d, nn.InstanceNorm2d])
@pytest.mark.parametrize('init', INITS)
def test_fresh_block_is_identity_unless_told_otherwise(init, norm_layer):
    block = GCNonLocal2d(16, init=init, norm_layer=norm_layer)
    x = torch.randn(2, 16, 5, 4)
    assert torch.equal(block(x), x)
    randomize(block)
    assert not torch.allclose(block(x), x, atol=1e-2)
    block.reset_parameters()
    assert torch.equal(block(x), x)
    block = GCNonLocal2d(16, init=init, norm_layer=norm_layer, zeros_init=False)
    assert not torch.allclose(block(x), x, atol=1e-6)


def test_norm_is_applied():
    block = make_block(16, norm_layer=nn.BatchNorm2d)
    x = torch.randn(2, 16, 5, 4, dtype=torch.float64)
    normed = block(x) - x
    norm, block.norm = block.norm, nn.Identity()
    torch.testing.assert_close(normed, norm(block(x) - x))
    assert not torch.allclose(normed, block(x) - x, atol=1e-2)


@pytest.mark.parametrize('kv_stride', [1, 2, 3])
def test_output_does_not_depend_on_earlier_sizes(kv_stride):
    block = make_block(16, kv_stride=kv_stride)
    sizes = [(1, 1), (1, 7), (6, 1), (5, 8), (2, 2), (9, 4)]
    inputs = [torch.randn(1, 16, *size, dtype=torch.float64) for size in sizes]
    first = [block(x) for x in inputs]
    for x, y in zip(inputs, first):
        assert y.shape == x.shape
    for x, y in reversed(list(zip(inputs, first))):
        torch.testing.assert_close(block(x), y, rtol=0, atol=0)


def test_attention_weights():
    block = make_block(16, num_heads=4, kv_stride=2).train()
    x = torch.randn(2, 16, 5, 6, dtype=torch.float64)
    weights = block.attention_weights(x)
    assert weights.shape == (2, 4, 30, 9)
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
    value = block.value(block.kv_pool(x)).flatten(2).unflatten(1, (4, -1))
    y = torch.einsum('bnqk,bndk->bndq', weights, value).reshape(2, -1, 5, 6)
    torch.testing.assert_close(block.eval()(x), x + block.out(y))


def test_dropout_is_unbiased_and_for_training_only():
    block = make_block(16, attn_drop_rate=0.5)
    x = torch.randn(1, 16, 4, 4, dtype=torch.float64)
    expected = block(x)
    torch.testing.assert_close(block(x), expected, rtol=0, atol=0)
    block.train()
    samples = torch.stack([block(x) for _ in range(1000)])
    error = (samples.mean(0) - expected).abs() / (samples.std(0) / 1000**0.5)
    assert samples.std(0).min() > 1e-3
    assert error.max() < 6


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('scale', [None, 1e-9])
@pytest.mark.parametrize('position', [None, 'relative_sinusoid', 'absolute_raw'])
def test_large_features_in_half_precision(dtype, position, scale):
    """q * c and the logits pass float16's 65504; the output must not notice.

    At the default scale the attention is all but one-hot, so that rounding may swap two
    best keys; with the small one it is soft and can be compared.
    """
    torch.manual_seed(0)
    # The sizes below are chosen for this start.
    block = GCNonLocal2d(64, 1, 2, position=position, scale=scale, init='normal').eval()
    nn.init.normal_(block.out.weight, std=0.1)
    x = 1e3 * torch.randn(2, 64, 6, 7) + 500
    with torch.no_grad():
        query = block.query(x).view(2, 2, -1, 6, 7).movedim(2, -1)
        context, factor = block.context(x)
        assert (query * context * factor).abs().max() > 65504
    with torch.autocast('cpu', dtype=dtype):
        y = block(x)
        ((y - x).float().mean() / 1e3).backward()
    assert y.isfinite().all()
    for name, parameter in block.named_parameters():
        assert parameter.grad.isfinite().all(), name
    added, expected = (y - x).float(), block(x) - x
    assert expected.abs().max() > 10
    if scale is not None:
        assert block.attention_weights(x).amax(-1).mean() < 0.5
        error = (added - expected).norm() / expected.norm()
        assert error < (0.02 if dtype == torch.float16 else 0.1)


def test_runs_on_a_device_without_autocast():
    x = torch.randn(1, 8, 6, 5, device='meta')
    assert GCNonLocal2d(8, num_heads=2).to('meta')(x).shape == x.shape


@pytest.mark.parametrize('position', FORMS)
def test_parameters_have_the_device_and_dtype_asked_for(position):
    options = dict(position=position, norm_layer=nn.BatchNorm2d)
    block = GCNonLocal2d(16, device='meta', dtype=torch.float64, **options)
    assert {(p.device.type, p.dtype) for p in block.parameters()} == {
        ('meta', torch.float64)
    }
    torch.manual_seed(0)
    block = GCNonLocal2d(16, device='cpu', **options)
    torch.manual_seed(0)
    for key, value in GCNonLocal2d(16, **options).state_dict().items():
        assert torch.equal(block.state_dict()[key], value)


def test_half_module_runs():
    block = randomize(GCNonLocal2d(16)).to(torch.bfloat16)
    x = torch.randn(1, 16, 4, 4, dtype=torch.bfloat16)
    assert block(x).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(in_channels=16.0), 'in_channels=16.0'),
        (dict(reduction=17), 'reduction=17'),
        (dict(num_heads=3), 'num_heads=3 does not divide the 8 inner channels'),
        (dict(num_heads=True), 'num_heads=True'),
        (dict(kv_stride=0), 'kv_stride=0'),
        (dict(context='mean'), "context='mean': give 'avg', 'max' or None"),
        (dict(position='sine'), "position='sine' is unknown.*'relative_sinusoid'"),
        (dict(in_channels=12, num_heads=2), 'divisible by 4, got 6'),
        (dict(attn_drop_rate=1.0), 'attn_drop_rate=1.0'),
        (dict(attn_drop_rate=-0.1), 'attn_drop_rate=-0.1'),
        (dict(scale=0), 'scale=0'),
        (dict(wavelength=1.0), 'wavelength=1.0'),
        (dict(init='gaussian'), "init='gaussian': give one of 'xavier', 'torch', 'normal'"),
        (dict(init=['torch']), 'init='),
        (dict(zeros_init='no'), "zeros_init='no': give True or False"),
        (dict(implementation='flash'), "implementation='flash': give None or .*'dense'"),
    ],
)
def test_wrong_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        GCNonLocal2d(**{'in_channels': 16, **kwargs})


@pytest.mark.parametrize('shape', [(16, 4, 4), (1, 8, 4, 4), (1, 1, 16, 4, 4)])
@pytest.mark.parametrize('method', ['forward', 'attention_weights'])
def test_wrong_input(shape, method):
    with pytest.raises(ValueError, match=r'expected \(B, 16, H, W\), as in_channels=16'):
        getattr(GCNonLocal2d(16), method)(torch.randn(shape))
