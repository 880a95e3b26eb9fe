import pytest

pytest.importorskip('tensorboard')


@pytest.mark.parametrize('config', ['segmentor', 'detector'])
def test_training_is_watchable(request, call, tmp_path, config):
    config = request.getfixturevalue(config)
    options = ['model.backbone.init_cfg=None', 'train_cfg.val_interval=2']
    options += ['default_hooks.visualization.interval=1']
    work_dir = tmp_path / 'work'
    call('train', config, '--work-dir', work_dir, '--cfg-options', *options)

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (vis_data,) = work_dir.glob('*/vis_data')
    assert list(vis_data.glob('vis_image/*.png'))
    assert (vis_data / 'scalars.json').exists()
    (events,) = vis_data.glob('events.*')
    log = EventAccumulator(str(events))
    log.Reload()
    assert [event.step for event in log.Scalars('loss')] == [1, 2]
    assert log.Tags()['images']


def test_tests_draw_nothing(call, tmp_path, segmentor):
    options = ['model.backbone.init_cfg=None']
    work_dir = tmp_path / 'work'
    call('train', segmentor, '--work-dir', work_dir, '--cfg-options', *options)
    tested = tmp_path / 'tested'
    call('test', segmentor, work_dir / 'iter_2.pth', '--work-dir', tested)
    assert not list(tested.glob('**/vis_image/*'))
