"""Random options: valid ones work, invalid ones are refused by an error that names them.

``MMGCNL_FUZZ=2000 pytest tests/test_models/test_fuzzing.py`` draws 2000 of each anew; by
default the same few are drawn each time.
"""

import io
import os
from copy import deepcopy

import pytest
import torch
from torch import nn

pytest.importorskip('mmseg')
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402
from mmseg.registry import MODELS  # noqa: E402

import mmgcnl  # noqa: E402, F401
from mmgcnl.layers import POSITION_FORMS  # noqa: E402

pytestmark = pytest.mark.filterwarnings('ignore')  # mmseg's advice on losses

fuzz = settings(
    max_examples=int(os.environ.get('MMGCNL_FUZZ', 30)),
    derandomize='MMGCNL_FUZZ' not in os.environ,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


# --- what is drawn ----------------------------------------------------------------------


@st.composite
def valid_block(draw, in_channels=None):
    """Config of a block whose options agree; ``in_channels`` fixed or drawn."""
    position = draw(st.sampled_from([None, *POSITION_FORMS]))
    unit = 4 if position and 'sinusoid' in position else 1
    if in_channels is None:
        reduction = draw(st.integers(1, 4))
        inner = unit * draw(st.integers(1, 24 // unit))
        in_channels = inner * reduction + draw(st.integers(0, reduction - 1))
    else:
        fit = [r for r in range(1, in_channels + 1) if in_channels // r % unit == 0]
        fit = [r for r in fit if in_channels // r > 0]
        reduction = draw(st.sampled_from(fit))
        inner = in_channels // reduction
    options = dict(
        reduction=reduction,
        num_heads=draw(st.sampled_from([n for n in range(1, inner + 1) if inner % n == 0])),
        context=draw(st.sampled_from(['avg', 'max', None])),
        position=position,
        attn_drop_rate=draw(st.sampled_from([0, 0.1, 0.9])),
        kv_stride=draw(st.integers(1, 4)),
        scale=draw(st.none() | st.floats(0.01, 4)),
        wavelength=draw(st.floats(1.01, 1e5)),
        implementation=draw(st.sampled_from([None, 'dense', 'blockwise'])),
        norm_cfg=draw(
            st.sampled_from([None, dict(type='BN'), dict(type='GN', num_groups=1)])
        ),
    )
    return dict(type='GCNonLocal2d', in_channels=in_channels, **options)


NO_WHOLE_NUMBER = [0, -3, 2.5, '2', None, True, [1]]
NO_SHARE = [-0.1, 1, 1.5, float('nan'), '0.1', None, [0]]
NO_LAYER = ['BN', 3, dict(), dict(type='NoSuchLayer'), dict(type=None)]
INVALID_BLOCK = dict(
    in_channels=NO_WHOLE_NUMBER,
    reduction=[*NO_WHOLE_NUMBER, 10**6],
    num_heads=[*NO_WHOLE_NUMBER, 10**6],
    kv_stride=NO_WHOLE_NUMBER,
    context=['mean', '', 1, ['avg'], True],
    position=['relative', '', 1, ['relative_raw'], True],
    attn_drop_rate=NO_SHARE,
    scale=[0, -1, float('nan'), float('inf'), '1', [1]],
    wavelength=[1, 0, -5, float('nan'), '1000', None, [10]],
    implementation=['fast', '', 1, ['dense']],
    norm_cfg=[
        *NO_LAYER,
        dict(type='GN'),
        dict(type='GN', num_groups=10**6),
        dict(type='BN', nonsense=1),
    ],
    heads=[8],
)


def sizes(least=1):
    return st.tuples(st.integers(least, 9), st.integers(least, 9))


@st.composite
def valid_neck(draw):
    num_levels = draw(st.integers(1, 5))
    in_channels = draw(st.sampled_from([4, 8, 12]))
    cfg = dict(
        type='EBFPN',
        in_channels=in_channels,
        num_levels=num_levels,
        refine_level=draw(st.integers(0, num_levels - 1)),
    )
    refine = draw(
        st.none()
        | valid_block(in_channels)
        | st.sampled_from([dict(type='NonLocal2d'), dict(type='ContextBlock', ratio=0.5)])
    )
    levels = draw(st.lists(sizes(), min_size=num_levels, max_size=num_levels))
    return dict(cfg, refine=refine), levels


INVALID_NECK = dict(
    in_channels=NO_WHOLE_NUMBER,
    num_levels=NO_WHOLE_NUMBER,
    refine_level=[-1, 100, 1.5, '1', None, True],
    refine=NO_LAYER,
    levels=[5],
) | {'refine.num_heads': [0], 'refine.heads': [8]}


@st.composite
def valid_head(draw):
    """Config of a head and the shapes (C, H, W) of the features that it gets."""
    channels = draw(st.sampled_from([4, 8, 12]))
    block = draw(st.none() | valid_block(channels))
    if block is None:
        block = dict(num_heads=draw(st.sampled_from([1, 2])), position='relative_raw')
    for key in ('type', 'in_channels'):
        block.pop(key, None)
    number = draw(st.integers(1, 3))
    several = draw(st.booleans())
    widths = draw(st.lists(st.integers(1, 6), min_size=number, max_size=number))
    index = draw(st.integers(-number, number - 1))
    cfg = dict(
        type='GCNLHead',
        in_channels=widths if several else widths[index],
        in_index=list(range(number)) if several else index,
        input_transform='resize_concat' if several else None,
        channels=channels,
        num_classes=draw(st.integers(2, 6)),
        kernel_size=draw(st.sampled_from([1, 3, 5])),
        dilation=draw(st.integers(1, 3)),
        concat_input=draw(st.booleans()),
        dropout_ratio=draw(st.sampled_from([0, 0.1])),
        norm_cfg=draw(st.sampled_from([None, dict(type='BN')])),
        align_corners=draw(st.booleans()),
        block=block,
    )
    return cfg, [(width, *draw(sizes(2))) for width in widths]


INVALID_HEAD = dict(
    in_channels=[0, -2, 1.5, 'a', None, True, [], [0], ['a']],
    in_index=[1.5, 'a', None, True, [], ['a'], list(range(9))],
    input_transform=['multiple_select', 'concat', 1, ['resize_concat']],
    channels=NO_WHOLE_NUMBER,
    num_classes=NO_WHOLE_NUMBER,
    kernel_size=[*NO_WHOLE_NUMBER, 2, 4],
    dilation=NO_WHOLE_NUMBER,
    dropout_ratio=NO_SHARE,
    norm_cfg=[*NO_LAYER, dict(type='GN')],
    conv_cfg=NO_LAYER,
    act_cfg=NO_LAYER,
    block=['avg', 3],
    num_convs=[1],
    channel=[4],
) | {'block.num_heads': [0], 'block.heads': [2], 'block.position': ['raw']}


@st.composite
def one_invalid(draw, valid, invalid):
    """A valid config with one option spoilt, and that option's name."""
    cfg = deepcopy(draw(valid))
    path = draw(st.sampled_from(sorted(invalid)))
    value = draw(st.sampled_from(invalid[path]))
    outer, _, option = path.rpartition('.')
    if outer:
        inner = dict(
            num_heads=1, **(dict(type='GCNonLocal2d') if outer == 'refine' else {})
        )
        cfg[outer] = {**inner, option: value}
    else:
        cfg[option] = value
    if option == 'wavelength':
        cfg['position'] = 'relative_raw'  # without position there is no use for it
    return cfg, option


# --- what is asked of it ----------------------------------------------------------------


def check(cfg, inputs, outputs_of):
    """Build, train a step's worth, save and load; ``outputs_of(module)`` runs it."""
    module = MODELS.build(deepcopy(cfg))
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    outputs = outputs_of(module)
    assert all(output.isfinite().all() for output in outputs)
    sum(output.square().mean() for output in outputs).backward()
    for tensor in [*module.parameters(), *inputs]:
        assert tensor.grad is None or tensor.grad.isfinite().all()
    block = next((m for m in module.modules() if isinstance(m, mmgcnl.GCNonLocal2d)), None)
    if block is not None:
        assert all(parameter.grad is not None for parameter in block.parameters())

    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    copy = MODELS.build(deepcopy(cfg))
    copy.load_state_dict(torch.load(file, weights_only=True))
    with torch.no_grad():
        results = [outputs_of(m.eval()) for m in (module, copy)]
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours, theirs)
    return outputs


@given(cfg=valid_block(), batch=st.integers(2, 3), size=sizes())
@fuzz
def test_valid_block(cfg, batch, size):
    x = torch.randn(batch, cfg['in_channels'], *size, requires_grad=True)
    (output,) = check(cfg, [x], lambda block: [block(x)])
    assert output.shape == x.shape


@given(drawn=valid_neck())
@fuzz
def test_valid_neck(drawn):
    cfg, levels = drawn
    shape = (2, cfg['in_channels'])
    inputs = [torch.randn(*shape, *size, requires_grad=True) for size in levels]
    outputs = check(cfg, inputs, lambda neck: neck(inputs))
    assert [y.shape for y in outputs] == [x.shape for x in inputs]


@given(drawn=valid_head())
@fuzz
def test_valid_head(drawn):
    cfg, shapes = drawn
    inputs = [torch.randn(2, *shape, requires_grad=True) for shape in shapes]
    (output,) = check(cfg, inputs, lambda head: [head(inputs)])
    first = cfg['in_index'] if cfg['input_transform'] is None else 0
    assert output.shape == (2, cfg['num_classes'], *shapes[first][1:])


def check_refused(cfg, option):
    init_default_scope('mmseg')
    with pytest.raises((TypeError, ValueError)) as refusal:
        MODELS.build(cfg)
    assert option in str(refusal.value)
    assert 'torch' not in refusal.traceback[-1].path.parts


@given(drawn=one_invalid(valid_block(), INVALID_BLOCK))
@fuzz
def test_invalid_block(drawn):
    check_refused(*drawn)


@given(drawn=one_invalid(valid_neck().map(lambda drawn: drawn[0]), INVALID_NECK))
@fuzz
def test_invalid_neck(drawn):
    check_refused(*drawn)


@given(drawn=one_invalid(valid_head().map(lambda drawn: drawn[0]), INVALID_HEAD))
@fuzz
def test_invalid_head(drawn):
    check_refused(*drawn)
