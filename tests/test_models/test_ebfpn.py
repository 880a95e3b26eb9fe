"""The neck against mmdet's BFP, and dropped into mmdet's own configs."""

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

BFP = pytest.importorskip('mmdet.models.necks').BFP
from mmengine.config import Config  # noqa: E402
from mmengine.registry import MODELS, init_default_scope  # noqa: E402
from mmengine.utils import get_installed_path  # noqa: E402

import mmgcnl  # noqa: E402
from mmgcnl import EBFPN  # noqa: E402
from mmgcnl.analysis import iter_attention, mean_cosine_distance  # noqa: E402


def randomize(module):
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module


def pyramid(channels, *sizes, dtype=torch.float64):
    return [torch.randn(2, channels, *size, dtype=dtype) for size in sizes]


PYRAMIDS = [
    [(16, 24), (8, 12), (4, 6), (2, 3), (1, 2)],
    [(13, 21), (7, 11), (4, 6), (2, 3), (1, 2)],  # odd sizes, as an FPN's extra levels
    [(5, 3), (9, 2), (1, 1)],  # no pyramid at all
]


@pytest.mark.parametrize('sizes', PYRAMIDS)
@pytest.mark.parametrize('refine_level', [0, 1, 2])
@pytest.mark.parametrize('refined', [True, False])
def test_equals_bfp(sizes, refine_level, refined):
    theirs = BFP(8, len(sizes), refine_level, refine_type='non_local' if refined else None)
    refine = dict(type='NonLocal2d', reduction=1, use_scale=False)
    ours = EBFPN(8, len(sizes), refine_level, refine=refine if refined else None)
    randomize(theirs).double()
    ours.double().load_state_dict(theirs.state_dict())
    inputs = pyramid(8, *sizes)
    expected = theirs(inputs)
    for ours_level, theirs_level in zip(ours(inputs), expected, strict=True):
        torch.testing.assert_close(ours_level, theirs_level, rtol=0, atol=0)
    if refined:
        unrefined = EBFPN(8, len(sizes), refine_level, refine=None)(inputs)
        assert not torch.allclose(unrefined[0], expected[0], atol=1e-3)


@pytest.mark.parametrize('deterministic', [False, True])
@pytest.mark.parametrize('sizes', PYRAMIDS)
@pytest.mark.parametrize('refine_level', [0, 1, 2])
def test_gradients_equal_bfps(sizes, refine_level, deterministic, monkeypatch):
    theirs = BFP(8, len(sizes), refine_level, refine_type=None)
    ours = EBFPN(8, len(sizes), refine_level, refine=None)
    inputs = [x.requires_grad_() for x in pyramid(8, *sizes)]
    weights = pyramid(8, *sizes)
    results = []
    for neck in (ours, theirs):
        loss = sum((w * y).sum() for w, y in zip(weights, neck(inputs)))
        with monkeypatch.context() as patch:
            if deterministic and neck is ours:
                torch.use_deterministic_algorithms(True)
                # It raises an error on a GPU.
                patch.setattr(torch.ops.aten, 'adaptive_max_pool2d_backward', None)
            try:
                results.append(torch.autograd.grad(loss, inputs))
            finally:
                torch.use_deterministic_algorithms(False)
    torch.testing.assert_close(*results)


def test_no_level_is_kept_for_the_backward_pass():
    neck = EBFPN(8, 3, refine=None)
    inputs = pyramid(8, (16, 24), (8, 12), (4, 6))
    saved = []
    hooks = torch.autograd.graph.saved_tensors_hooks(
        lambda x: saved.append(x.shape) or x, lambda x: x
    )
    with hooks:
        neck([x.requires_grad_() for x in inputs])
    assert saved and not {x.shape for x in inputs[:2]} & set(saved)


def test_forward_allocates_the_finest_level_once():
    neck = EBFPN(64, 3, refine=None).eval()
    inputs = pyramid(64, (64, 64), (32, 32), (16, 16), dtype=torch.float32)
    with torch.no_grad(), torch.profiler.profile(profile_memory=True) as profile:
        neck(inputs)
    numbers = [event.self_cpu_memory_usage for event in profile.events()]
    size = inputs[0].numel() * 4
    assert sum(number // size for number in numbers if number > 0) == 1


def test_levels_and_mean_of_different_precision():
    neck = EBFPN(8, 2, 1, refine=None)
    inputs = pyramid(8, (8, 8), (4, 4), dtype=torch.float32)
    inputs[1] = inputs[1].half()
    outputs = neck(inputs)
    assert [y.dtype for y in outputs] == [torch.float32, torch.float32]
    neck = EBFPN(8, 1, 0, refine=None)
    neck.refine = lambda mean: mean.half()
    (output,) = neck(inputs[:1])
    assert output.dtype == torch.float32


def test_plain_block_starts_as_bfps():
    """Also where the neck's init_weights has run: its parts draw for themselves."""
    torch.manual_seed(0)
    theirs = BFP(256, 1, 0, refine_type='non_local')
    plain = dict(num_heads=1, context=None, position=None, attn_drop_rate=0.0)
    block = dict(type='GCNonLocal2d', reduction=1, scale=1.0, init='normal', **plain)
    ours = EBFPN(256, 1, 0, refine=block)
    theirs.init_weights()
    ours.init_weights()
    pairs = dict(query='theta', key='phi', value='g', out='conv_out')
    for our_name, their_name in pairs.items():
        layer = getattr(ours.refine, our_name)
        expected = getattr(theirs.refine, their_name).conv
        assert not layer.bias.any() and not expected.bias.any()
        for moment in (torch.std, lambda w: w.pow(4).mean().pow(0.25)):
            torch.testing.assert_close(
                moment(layer.weight), moment(expected.weight), rtol=0.02, atol=0
            )
    x = torch.randn(1, 256, 12, 10)
    distances = []
    for neck in (ours, theirs):
        (weights,) = iter_attention(neck.refine, x)
        distances.append(mean_cosine_distance(weights[0, 0]).item())
    assert distances[0] == pytest.approx(distances[1], rel=0.05)


XAVIER = dict(type='Xavier', layer='Conv2d', distribution='uniform')


@pytest.mark.parametrize(
    'refine',
    [
        dict(type='GCNonLocal2d', reduction=1, kv_stride=2),
        dict(type='NonLocal2d', reduction=1, use_scale=False),
        dict(type='ContextBlock', ratio=4),
        dict(type='SEBlock'),
        dict(type='DCN', out_channels=256, kernel_size=3, padding=1),
    ],
    ids=lambda refine: refine['type'],
)
def test_init_cfg_has_the_last_word_over_any_block(refine):
    """As in mmdet 1.x's BFP: every convolution is drawn, the output layer included."""
    torch.manual_seed(0)
    neck = EBFPN(256, 2, 0, refine=refine, init_cfg=XAVIER)
    neck.init_weights()
    convs = [m for m in neck.modules() if isinstance(m, nn.Conv2d)]
    assert convs
    for conv in convs:
        fans = torch.nn.init._calculate_fan_in_and_fan_out(conv.weight)
        bound = (6 / sum(fans)) ** 0.5
        assert 0.9 * bound < conv.weight.abs().max() <= bound
        assert conv.bias is None or not conv.bias.any()
    inputs = pyramid(256, (8, 8), (4, 4), dtype=torch.float32)
    plain = EBFPN(256, 2, 0, refine=None)
    with torch.no_grad():
        assert not torch.allclose(neck(inputs)[0], plain(inputs)[0], atol=1e-3)


def test_fresh_neck_without_init_cfg_adds_the_mean_alone():
    neck = EBFPN(64, 2, 0)
    neck.init_weights()
    inputs = pyramid(64, (8, 8), (4, 4), dtype=torch.float32)
    for ours, mean in zip(neck(inputs), EBFPN(64, 2, 0, refine=None)(inputs)):
        assert torch.equal(ours, mean)


def test_default_refine_is_the_papers():
    neck = EBFPN(256, 5)
    block = neck.refine
    assert isinstance(block, mmgcnl.GCNonLocal2d)
    assert (block.in_channels, block.num_heads, block.kv_stride) == (256, 8, 2)
    assert block.query.out_channels == 256
    # Section 2.6: 6 layers of 256 x 256 weights, five of them with a bias.
    parameters = sum(p.numel() for p in neck.parameters())
    assert parameters == 6 * 256 * 256 + 5 * 256


@pytest.mark.parametrize(
    'refine',
    [
        dict(type='DCN', out_channels=16, kernel_size=3, padding=1),
        dict(type='ContextBlock', ratio=4),
        dict(type='SEBlock', ratio=4),
        dict(type='GeneralizedAttention', num_heads=4),
        dict(type='GCNonLocal2d', norm_cfg=dict(type='BN')),
    ],
)
def test_any_block_refines(refine):
    neck = EBFPN(16, 3, refine_level=1, refine=refine)
    inputs = pyramid(16, (8, 12), (4, 6), (2, 3), dtype=torch.float32)
    neck.init_weights()
    fresh = [output.detach() for output in neck(inputs)]
    randomize(neck.refine)
    for level, output, start in zip(inputs, neck(inputs), fresh, strict=True):
        assert output.shape == level.shape
        assert not torch.allclose(output, start, atol=1e-3)


def test_dcn_offsets_start_at_zero():
    neck = EBFPN(16, 1, 0, dict(type='DCN', out_channels=16, kernel_size=3, padding=1))
    neck.init_weights()
    assert not neck.refine.conv_offset.weight.any()


def test_own_in_channels_of_refine_wins():
    with pytest.raises(ValueError, match='in_channels=8'):
        EBFPN(16, 1, 0, dict(type='GCNonLocal2d', in_channels=8))(pyramid(16, (4, 4)))


@pytest.mark.parametrize('refine_level', [-1, 5, True, False, 1.0])
def test_wrong_refine_level(refine_level):
    with pytest.raises(ValueError, match=rf'refine_level={refine_level}: .* 0 to 4'):
        EBFPN(16, 5, refine_level)


def test_wrong_inputs():
    neck = EBFPN(16, 3)
    with pytest.raises(ValueError, match='got 2 levels but num_levels=3'):
        neck(pyramid(16, (4, 4), (2, 2)))
    inputs = pyramid(16, (4, 4), (2, 2), (1, 1))
    with pytest.raises(ValueError, match=r'level 1 has shape \(2, 8, 2, 2\): .* 16, H, W'):
        neck([inputs[0], inputs[1][:, :8], inputs[2]])
    with pytest.raises(ValueError, match='level 2 .* same B'):
        neck([*inputs[:2], inputs[2][:1]])


# --- tracing, compiling, exporting: sizes are symbols, resizing goes by indices ---------


@pytest.mark.parametrize('refine_level', [0, 1, 2])
def test_traces_for_any_size(refine_level):
    neck = EBFPN(16, 3, refine_level)
    randomize(neck).double().eval()

    class Unpacked(nn.Module):
        def __init__(self):
            super().__init__()
            self.neck = neck

        def forward(self, *inputs):
            return self.neck(inputs)

    example = tuple(pyramid(16, (32, 48), (16, 24), (8, 12)))
    with pytest.warns(torch.jit.TracerWarning):  # of checks of the shape
        traced = torch.jit.trace(Unpacked(), example, check_trace=False)
    for sizes in PYRAMIDS:
        inputs = pyramid(16, *sizes[-3:])
        for output, expected in zip(traced(*inputs), neck(inputs), strict=True):
            torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)


def test_compiles_once_for_all_sizes():
    neck = randomize(EBFPN(16, 2, 1)).eval()
    torch._dynamo.reset()
    counter = CompileCounterWithBackend('aot_eager')
    compiled = torch.compile(neck, fullgraph=True, backend=counter)
    for height, width in [(16, 24), (20, 20), (17, 26), (32, 8), (19, 21)]:
        sizes = (height, width), (-(-height // 2), -(-width // 2))
        inputs = [x.requires_grad_() for x in pyramid(16, *sizes, dtype=torch.float32)]
        results = []
        for function in (compiled, neck):
            outputs = function(inputs)
            gradients = torch.autograd.grad(sum(y.square().mean() for y in outputs), inputs)
            results.append([*outputs, *gradients])
        torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)
    # One for the first size, one for every other.
    assert counter.frame_count <= 2


def test_inductor():
    neck = randomize(EBFPN(16, 2, 1)).eval()
    inputs = pyramid(16, (6, 8), (3, 4), dtype=torch.float32)
    torch._dynamo.reset()
    with torch.no_grad():
        outputs = torch.compile(neck, dynamic=False)(inputs)
        torch.testing.assert_close(outputs, neck(inputs), rtol=1e-4, atol=1e-5)


# Configs of mmdet itself, unchanged but for the neck (and the size, for speed).
DROP_IN = [
    'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
    'retinanet/retinanet_r50_fpn_1x_coco.py',
    'cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py',
    'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py',
]


@pytest.mark.parametrize('name', DROP_IN)
def test_drop_in(name):
    """Build behind the config's FPN, be the identity addition, take a training step."""
    from mmdet.testing import demo_mm_inputs

    path = get_installed_path('mmdet')
    cfg = Config.fromfile(f'{path}/.mim/configs/{name}')
    init_default_scope('mmdet')
    model = cfg.model
    model.backbone.init_cfg = None
    fpn = dict(model.neck)
    model.neck = [fpn, dict(type='EBFPN', in_channels=256, num_levels=5)]
    model = MODELS.build(model)
    model.init_weights()
    block = model.neck[1].refine
    x = torch.randn(1, 256, 4, 6)
    torch.testing.assert_close(block(x), x, rtol=0, atol=0)

    model.train()
    batch = model.data_preprocessor(
        demo_mm_inputs(1, [[3, 64, 96]], num_items=[2], with_mask=True), True
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    losses = model(**batch, mode='loss')
    loss, _ = model.parse_losses(losses)
    loss.backward()
    assert loss.isfinite()
    assert block.out.weight.grad.abs().max() > 0
    optimizer.step()
    assert not torch.equal(block(x), x)
