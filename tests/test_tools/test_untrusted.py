"""A checkpoint that runs code does not, wherever one can be given."""

import os
from pathlib import Path

import pytest
import torch

from mmgcnl.apis import init_model


class Attack:
    """Unpickled, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.fixture
def left(tmp_path) -> Path:
    return tmp_path / 'left_behind'


@pytest.fixture
def evil(tmp_path, left) -> Path:
    path = tmp_path / 'evil.pth'
    torch.save(dict(state_dict={}, meta=dict(epoch=0, iter=1, a=Attack(left))), path)
    return path


@pytest.mark.parametrize(
    'arguments',
    [
        ['train', '{config}', '--resume', '{evil}', '--cfg-options'],
        ['train', '{config}', '--cfg-options', 'load_from={evil}'],
        ['train', '{config}', '--cfg-options', 'model.backbone.init_cfg.checkpoint={evil}'],
        ['test', '{config}', '{evil}', '--cfg-options'],
    ],
    ids=['--resume', 'load_from', 'Pretrained', 'test'],
)
def test_tools(call, segmentor, tmp_path, left, evil, arguments, capsys):
    arguments = [word.format(config=segmentor, evil=evil) for word in arguments]
    if 'backbone' not in arguments[-1]:
        arguments.append('model.backbone.init_cfg=None')
    with pytest.raises(SystemExit) as stop:
        call(*arguments, f'work_dir={tmp_path / "run"}')
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert f'{evil} refused: it asks for ' in error and 'mkdir' in error
    assert not left.exists()


def test_latest_of_the_work_dir(call, segmentor, tmp_path, left, evil, capsys):
    (tmp_path / 'run').mkdir()
    evil.rename(tmp_path / 'run/iter_1.pth')
    options = ('--cfg-options', 'model.backbone.init_cfg=None')
    with pytest.raises(SystemExit) as stop:
        call('train', segmentor, '--work-dir', tmp_path / 'run', '--resume', *options)
    assert stop.value.code == 2
    assert 'none of the checkpoints' in capsys.readouterr().err
    assert not left.exists()


def test_api(segmentor, left, evil):
    with pytest.raises(ValueError, match='refused: it asks for'):
        init_model(str(segmentor), str(evil), device='cpu')
    assert not left.exists()
    torch.load(evil, weights_only=False)
    assert left.exists()  # or these tests would show nothing
