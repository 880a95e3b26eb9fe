"""Pictures of a validation and a test, over the images as the pipeline loads them."""

from types import SimpleNamespace

import numpy as np
import pytest
from mmengine.dataset import Compose
from mmengine.registry import HOOKS, init_default_scope
from mmengine.visualization import Visualizer

from mmgcnl.engine import ConfigError
from mmgcnl.engine.visualization import VISUALIZATION_HOOKS

DEEP = np.arange(24, dtype=np.uint16).reshape(4, 6) * 1000


class Load:
    """A loader of one channel of 16 bits."""

    def __call__(self, results):
        if results['img_path'].endswith('broken'):
            raise OSError('unreadable')
        return dict(results, img=DEEP)


STEPS = (type('LoadImageOfOurs', (Load,), {})(),)


class Data:
    def __init__(self, *paths, steps=STEPS):
        self.paths = paths
        self.pipeline = Compose([])
        self.pipeline.transforms = list(steps)

    def __len__(self):
        return len(self.paths)

    def get_data_info(self, index):
        return dict(img_path=self.paths[index])


class Runner:
    iter = 0
    work_dir = '/work'
    timestamp = 'now'

    def __init__(self, data):
        self.val_dataloader = self.test_dataloader = SimpleNamespace(dataset=data)
        self.warnings = []
        self.logger = SimpleNamespace(warning=self.warnings.append)


@pytest.fixture(params=['mmseg', 'mmdet'])
def make(request, monkeypatch):
    """Make a hook of a library, which notes what it draws."""
    pytest.importorskip(request.param)
    init_default_scope(request.param)
    drawn = []

    def draw(name, image, **options):
        drawn.append((name, image, options))

    visualizer = SimpleNamespace(add_datasample=draw)
    monkeypatch.setattr(Visualizer, 'get_current_instance', lambda: visualizer)
    name = f'{request.param[2:].capitalize()}VisualizationHook'

    def make(**options):
        theirs = HOOKS.get(f'{request.param}.{name}')
        hook = VISUALIZATION_HOOKS[theirs](draw=True, **options)
        assert isinstance(hook, theirs)
        return hook, drawn

    return make


def sample(path):
    return SimpleNamespace(img_path=path)


def test_every_nth_batch_of_a_validation(make):
    hook, drawn = make(interval=2)
    runner = Runner(Data('d/0.png', 'd/1.png', 'd/2.png'))
    hook.before_val(runner)
    for index in range(3):
        hook.after_val_iter(runner, index, None, [sample(f'd/{index}.png')])
    assert [options['step'] for *_, options in drawn] == [0, 2]
    for _, image, _ in drawn:
        assert image.shape == (4, 6, 3) and image.dtype == np.uint8 and image.max() == 255
    assert not runner.warnings


def test_every_image_of_a_test(make):
    hook, drawn = make(interval=50)
    runner = Runner(Data('d/0.png', 'd/1.png'))
    hook.before_test(runner)
    hook.after_test_iter(runner, 0, None, [sample('d/0.png'), sample('d/1.png')])
    assert [options['step'] for *_, options in drawn] == [1, 2]


def test_picture_that_fails_is_a_warning(make):
    hook, drawn = make()
    runner = Runner(Data('d/broken', 'd/1.png'))
    hook.before_val(runner)
    hook.after_val_iter(runner, 0, None, [sample('d/broken')])
    (warning,) = runner.warnings
    assert 'd/broken is not drawn: OSError: unreadable' in warning
    runner = Runner(Data('d/0.png', steps=()))
    hook.before_val(runner)
    hook.after_val_iter(runner, 0, None, [sample('d/0.png')])
    (warning,) = runner.warnings
    assert 'no transform that loads an image' in warning
    assert not drawn


def test_files_of_a_test():
    library = pytest.importorskip('mmdet.engine.hooks')
    hook = VISUALIZATION_HOOKS[library.DetVisualizationHook]
    hook = hook.__new__(hook)
    hook.draw, hook.test_out_dir = True, 'drawn'
    hook.before_test(Runner(Data('d/A/0.jpg', 'd/B/0.jpg')))
    assert hook.test_out_dir == '/work/now/drawn'
    with pytest.raises(ConfigError, match='d/0.png and d/0.jpg'):
        hook.before_test(Runner(Data('d/0.png', 'd/0.jpg')))
