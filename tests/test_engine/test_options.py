"""What options of the tools change in a config; tests/test_tools run them."""

import pytest
from mmengine.config import Config
from mmengine.visualization import TensorboardVisBackend

from mmgcnl.engine import options


def detector(**settings):
    settings['default_scope'] = 'mmdet'
    return Config(settings, cfg_text='not read', filename='configs/name.py')


def segmentor(**settings):
    return Config(dict(default_scope='mmseg', **settings))


def test_use_amp():
    cfg = segmentor(optim_wrapper=dict(optimizer=dict(lr=1), dtype='bfloat16'))
    options.use_amp(cfg, 'fp16')
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper'
    assert cfg.optim_wrapper.loss_scale == 'dynamic'
    assert 'dtype' not in cfg.optim_wrapper
    options.use_amp(cfg, 'bf16')
    assert cfg.optim_wrapper == dict(optimizer=dict(lr=1), type='Bfloat16OptimWrapper')


@pytest.mark.parametrize('kind', ['TensorboardVisBackend', TensorboardVisBackend])
def test_a_backend_is_not_added_twice(kind):
    cfg = segmentor(visualizer=dict(vis_backends=[dict(type=kind, save_dir='a')]))
    options.make_watchable(cfg)
    assert len(cfg.visualizer.vis_backends) == 1


def test_without_a_scope_the_model_tells_the_library():
    model = dict(type='mmdet.models.RetinaNet')
    assert options.is_detector(detector())
    assert not options.is_detector(segmentor(model=model))
    assert options.is_detector(Config(dict(default_scope=None, model=model)))
    assert not options.is_detector(Config(dict(default_scope=None)))


def test_draw_predictions():
    hooks = dict(visualization=dict(type='A', interval=50))
    cfg = detector(default_hooks=hooks, visualizer=dict(type='B'))
    options.draw_predictions(cfg, show_dir='folder')
    expected = dict(type='A', interval=1, draw=True, test_out_dir='folder')
    assert cfg.default_hooks.visualization == expected
    cfg = segmentor(default_hooks=hooks, visualizer=dict(type='B'))
    options.draw_predictions(cfg, True, 'folder', wait_time=3)
    expected = dict(type='A', interval=1, draw=True, show=True, wait_time=3)
    assert cfg.default_hooks.visualization == expected
    assert cfg.visualizer.save_dir == 'folder'


def test_use_tta():
    loader = dict(dataset=dict(pipeline=[1]))
    cfg = segmentor(
        model=dict(type='A'),
        tta_model=dict(type='T'),
        tta_pipeline=[2],
        test_dataloader=loader,
    )
    options.use_tta(cfg)
    assert cfg.model == dict(type='T', module=dict(type='A'))
    assert cfg.test_dataloader.dataset.pipeline == [2]


def test_use_trainval():
    """The validation images are read as the training images are."""
    dataset = dict(type='A', pipeline=[1], indices=8, data_prefix=dict(img_path='train'))
    cfg = segmentor(
        train_dataloader=dict(batch_size=3, dataset=dataset),
        trainval=dict(data_prefix=dict(img_path='val')),
    )
    options.use_trainval(cfg)
    validation = dict(dataset, data_prefix=dict(img_path='val'))
    joined = dict(type='ConcatDataset', datasets=[dataset, validation])
    assert cfg.train_dataloader == dict(batch_size=3, dataset=joined)
    with pytest.raises(ValueError, match='train_dataloader.dataset is a ConcatDataset'):
        options.use_trainval(cfg)


def test_write_submission(tmp_path):
    submission = dict(test_evaluator=dict(format_only=True))
    for make, key, value in (
        (detector, 'outfile_prefix', 'detections_test-dev2017_name_results'),
        (segmentor, 'output_dir', ''),
    ):
        cfg = make(test_evaluator=dict(type='A'), submission=submission)
        folder = tmp_path / 'new' / make.__name__
        options.write_submission(cfg, str(folder))
        assert folder.is_dir()
        path = str(folder / value) if value else str(folder)
        assert cfg.test_evaluator == {'type': 'A', 'format_only': True, key: path}


@pytest.mark.parametrize(
    ('edit', 'arguments', 'message'),
    [
        (options.scale_learning_rate, (), 'auto_scale_lr.base_batch_size=N'),
        (options.use_trainval, (), 'has no `trainval`'),
        (options.draw_predictions, (), 'has no default_hooks.visualization'),
        (options.use_tta, (), 'has no tta_model'),
        (options.save_predictions, ('folder',), 'a detector needs a .pkl file, not folder'),
        (options.write_submission, ('folder',), 'has no `submission`'),
    ],
)
def test_missing_settings_are_named(edit, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        edit(detector(test_evaluator=dict(type='A')), *arguments)
    assert not list(tmp_path.iterdir())


def test_resume_training(tmp_path):
    """The latest checkpoint, or else the weights to start from."""
    cfg = Config(dict(work_dir=str(tmp_path), load_from='weights.pth'))
    options.resume_training(cfg, 'auto')
    assert cfg.load_from == 'weights.pth' and not cfg.get('resume')
    (tmp_path / 'iter_3.pth').touch()
    options.resume_training(cfg, 'auto')
    assert cfg.load_from is None and cfg.resume
    options.resume_training(cfg, 'iter_2.pth')
    assert cfg.load_from == 'iter_2.pth' and cfg.resume
