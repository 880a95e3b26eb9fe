import pytest
from mmengine.config import Config, ConfigDict
from mmengine.hooks import CheckpointHook
from mmengine.registry import DATASETS, HOOKS, init_default_scope

from mmgcnl.utils.config_types import class_of, parameters_of, scope_of, type_name

EVERY_WAY = (
    'CheckpointHook',
    'mmengine.CheckpointHook',
    'mmengine.hooks.checkpoint_hook.CheckpointHook',
    'mmengine.hooks.CheckpointHook',
    CheckpointHook,
)


@pytest.mark.parametrize('kind', EVERY_WAY)
def test_every_way_to_name_a_class(kind):
    assert class_of(dict(type=kind), HOOKS) is CheckpointHook
    assert type_name(kind) == 'CheckpointHook'


def test_the_scope_decides_between_classes_of_one_name():
    mmdet, mmseg = (pytest.importorskip(f'{name}.datasets') for name in ('mmdet', 'mmseg'))
    init_default_scope('mmdet')
    cityscapes = dict(type='CityscapesDataset')
    assert class_of(cityscapes, DATASETS) is mmdet.CityscapesDataset
    assert class_of(dict(cityscapes, _scope_='mmseg'), DATASETS) is mmseg.CityscapesDataset


@pytest.mark.parametrize('kind', ['NoSuchHook', 'no.such.Hook', 'mmengine.no.Hook', None])
def test_nothing_of_that_name(kind):
    assert class_of(dict(type=kind), HOOKS) is None
    assert class_of({}, HOOKS) is None


def test_scope_of_the_config_itself():
    assert scope_of(Config(dict(default_scope='other'))) == 'other'
    assert scope_of(Config({})) == 'mmengine'


@pytest.mark.parametrize('library', ['mmdet', 'mmseg'])
def test_scope_of_the_library_that_the_model_comes_from(library):
    models = pytest.importorskip(f'{library}.models')
    name = dict(mmdet='RetinaNet', mmseg='EncoderDecoder')[library]
    base = getattr(models, name)
    own = type('Own', (base,), {})
    for kind in (f'{library}.{name}', f'{base.__module__}.{name}', base, own):
        cfg = Config(dict(default_scope=None, model=ConfigDict(type=kind)))
        assert scope_of(cfg) == library
    visualizer = dict(mmdet='DetLocalVisualizer', mmseg='SegLocalVisualizer')[library]
    cfg = Config(dict(visualizer=dict(type=f'{library}.{visualizer}')))
    assert scope_of(cfg) == library


def test_parameters_of():
    class Base:
        def __init__(self, one, *, two=2):
            pass

    class Child(Base):
        def __init__(self, three, *args, **kwargs):
            pass

    class Open:
        def __init__(self, **kwargs):
            pass

    assert parameters_of(Child) == {'one', 'two', 'three'}
    assert parameters_of(Open) is None
    assert parameters_of(lambda a, b=1: a) == {'a', 'b'}
