import errno
import math
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path, PosixPath

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.registry import HOOKS
from mmengine.runner import runner

from mmgcnl.engine import CheckpointError
from mmgcnl.engine.checkpoints import write_whole
from tests.test_engine.conftest import Noise


@HOOKS.register_module()
class AddPath(Hook):
    def __init__(self, first):
        self.first = first

    def before_save_checkpoint(self, runner, checkpoint):
        if checkpoint['meta']['iter'] >= self.first:
            checkpoint['meta']['place'] = PosixPath('here')


FAULTS = dict(full=errno.ENOSPC, read_only=errno.EROFS, unreliable=errno.EIO)


@pytest.fixture(params=FAULTS)
def breaking(request, monkeypatch):
    """Make the writing of files with certain names fail, as a file system would."""
    if request.param == 'full' and not os.path.exists('/dev/full'):
        pytest.skip('no /dev/full to run out of space on')
    write, fsync = runner.save_checkpoint, os.fsync

    def breaking(*names: str) -> str:
        def is_bad(path: str) -> bool:
            return os.path.basename(path).removesuffix('.part') in names

        def save_checkpoint(checkpoint, path, **kwargs):
            write(checkpoint, path, **kwargs)
            if is_bad(path) and request.param == 'full':
                os.truncate(path, 100)
                with open('/dev/full', 'wb') as file:
                    file.write(b'more')
            if is_bad(path) and request.param == 'read_only':
                os.remove(path)
                raise OSError(errno.EROFS, os.strerror(errno.EROFS))

        def flush(descriptor: int) -> None:
            # A network file system may report a failed write no earlier.
            if request.param == 'unreliable' and is_bad(
                os.readlink(f'/proc/self/fd/{descriptor}')
            ):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            fsync(descriptor)

        monkeypatch.setattr(runner, 'save_checkpoint', save_checkpoint)
        monkeypatch.setattr(os, 'fsync', flush)
        return os.strerror(FAULTS[request.param])

    return breaking


def keeping(number: int, **changes) -> dict:
    hook = dict(type='CheckpointHook', by_epoch=False, interval=1, max_keep_ckpts=number)
    return dict(checkpoint=dict(hook, **changes))


def checkpoints(work_dir: Path) -> set[str]:
    return {path.name for path in work_dir.glob('*.pth*')}


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)['state_dict']


def assert_finishes(build, work_dir: Path, **changes) -> None:
    """What is left can be resumed, and ends as the training without a fault does."""
    build(work_dir, **changes, resume=True).train()
    build(work_dir / 'whole', **changes).train()
    for key, value in weights(work_dir / 'whole/iter_15.pth').items():
        assert torch.equal(weights(work_dir / 'iter_15.pth')[key], value), key


def test_keeps_as_many_as_asked_for(build, tmp_path):
    build(tmp_path, default_hooks=keeping(2)).train()
    assert checkpoints(tmp_path) == {'iter_14.pth', 'iter_15.pth'}


def test_failed_checkpoint_is_retried_at_the_next(build, tmp_path, breaking, capfd):
    changes = dict(default_hooks=keeping(1), randomness=dict(seed=0))
    fault = breaking('iter_4.pth', 'iter_5.pth')
    stopped = dict(changes, custom_hooks=[dict(type='Stop', at=5)])
    with pytest.raises(InterruptedError):
        build(tmp_path, **stopped).train()
    assert checkpoints(tmp_path) == {'iter_3.pth'}
    output = ''.join(capfd.readouterr())
    assert f'iter_4.pth could not be saved: {fault}' in output
    assert 'The training goes on' in output and 'if 2 more in a row' in output
    assert_finishes(build, tmp_path, **changes)
    assert checkpoints(tmp_path) == {'iter_15.pth'}
    assert 'if 1 more in a row' in ''.join(capfd.readouterr())


def test_stops_when_no_checkpoint_can_be_saved(build, tmp_path, breaking):
    changes = dict(default_hooks=keeping(1), randomness=dict(seed=0))
    fault = breaking('iter_4.pth', 'iter_5.pth', 'iter_6.pth')
    message = f'iter_6.pth could not be saved: {fault}.*free some space'
    with pytest.raises(OSError, match=message):
        build(tmp_path, **changes).train()
    assert checkpoints(tmp_path) == {'iter_3.pth'}
    breaking()
    assert_finishes(build, tmp_path, **changes)


def test_stops_when_the_last_checkpoint_cannot_be_saved(build, tmp_path, breaking):
    changes = dict(default_hooks=keeping(1), randomness=dict(seed=0))
    breaking('iter_15.pth')
    with pytest.raises(OSError, match=r'iter_15.pth could not be saved.*free some space'):
        build(tmp_path, **changes).train()
    assert checkpoints(tmp_path) == {'iter_14.pth'}
    breaking()
    assert_finishes(build, tmp_path, **changes)
    assert checkpoints(tmp_path) == {'iter_15.pth'}


def test_failed_best_checkpoint_keeps_the_one_before(build, tmp_path, breaking, capfd):
    """There is one to write at each validation: iterations 5, 10, 15."""
    hooks = keeping(1, save_best='score', rule='less')
    fault = breaking('best_score_iter_10.pth')
    stop = dict(type='Stop', at=11)
    with pytest.raises(InterruptedError):
        build(tmp_path, default_hooks=hooks, custom_hooks=[stop]).train()
    assert f'best_score_iter_10.pth could not be saved: {fault}' in capfd.readouterr()[0]
    assert checkpoints(tmp_path) == {'best_score_iter_5.pth', 'iter_11.pth'}
    build(tmp_path, default_hooks=hooks, resume=True).train()
    assert checkpoints(tmp_path) == {'best_score_iter_15.pth', 'iter_15.pth'}


@pytest.mark.parametrize('unit', ['epoch', 'iter'])
def test_validates_at_the_end_of_the_training(build, tmp_path, unit):
    """Also between two of the interval."""
    loop = {'by_epoch': unit == 'epoch', f'max_{unit}s': 3, 'val_interval': 2}
    hooks = keeping(1, by_epoch=unit == 'epoch', save_best='score', rule='less')
    build(tmp_path, unit == 'epoch', train_cfg=loop, default_hooks=hooks).train()
    assert checkpoints(tmp_path) == {f'{unit}_3.pth', f'best_score_{unit}_3.pth'}


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='no /dev/full')
def test_log_that_cannot_be_written_is_no_reason_to_stop(build, tmp_path, capfd):
    hooks = dict(keeping(1), logger=dict(type='LoggerHook', interval=1))
    training = build(tmp_path, default_hooks=hooks)
    Path(training.log_dir, 'vis_data/scalars.json').symlink_to('/dev/full')
    training.train()
    said = 'a log could not be written, the training goes on: [Errno 28] No space left'
    assert said in ''.join(capfd.readouterr())
    assert checkpoints(tmp_path) == {'iter_15.pth'}


def test_functions_and_configs_stay_out_of_a_checkpoint(build, tmp_path, monkeypatch):
    """OneCycleLR has a function, registered statistics are some, and metainfo a Config."""
    monkeypatch.setattr(
        Noise, 'metainfo', dict(classes=('a',), info=ConfigDict(year=2020)), raising=True
    )
    methods = dict(HistoryBuffer._statistics_methods, range=lambda buffer: 0)
    monkeypatch.setattr(HistoryBuffer, '_statistics_methods', methods)
    cycle = dict(type='OneCycleLR', eta_max=0.005, total_steps=15, by_epoch=False)
    changes = dict(param_scheduler=[cycle], randomness=dict(seed=0))
    with pytest.raises(InterruptedError):
        build(tmp_path, **changes, custom_hooks=[dict(type='Stop', at=7)]).train()
    assert_finishes(build, tmp_path, **changes)
    assert 'range' in HistoryBuffer._statistics_methods


@pytest.mark.parametrize('first', [1, 6])
def test_what_cannot_be_loaded_again_is_not_saved(build, tmp_path, first):
    with pytest.raises(CheckpointError, match='they would hold pathlib'):
        build(tmp_path, custom_hooks=[dict(type='AddPath', first=first)]).train()
    assert len(list(tmp_path.glob('*.pth'))) == first - 1


@pytest.mark.skipif(not hasattr(signal, 'SIGXFSZ'), reason='no limit of a file size')
def test_killed_while_writing(build, tmp_path):
    """By the system, at the 3000th byte of the fourth checkpoint."""
    changes = dict(default_hooks=keeping(1), randomness=dict(seed=0))
    script = f"""
import resource, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from conftest import build_runner
from mmengine.hooks import Hook

class Limit(Hook):
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 3:
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))

runner = build_runner({str(tmp_path)!r}, **{changes!r})
runner.register_hook(Limit())
runner.train()
"""
    killed = subprocess.run([sys.executable, '-c', script], capture_output=True)
    assert killed.returncode == -signal.SIGXFSZ, killed.stderr.decode()[-999:]
    assert (tmp_path / 'iter_4.pth.part').stat().st_size == 3000
    assert checkpoints(tmp_path) == {'iter_3.pth', 'iter_4.pth.part'}
    assert_finishes(build, tmp_path, **changes)
    assert not (tmp_path / 'iter_4.pth.part').exists()


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip_a_bit(path: Path) -> None:
    """Change a weight, which torch.load does not notice."""
    content = bytearray(path.read_bytes())
    weight = weights(path)['layers.0.weight'].numpy().tobytes()
    content[content.index(weight) + 5] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (truncate, 'is not a checkpoint, or is truncated'),
        (flip_a_bit, 'is damaged: the checksum'),
    ],
)
def test_damaged_checkpoint_is_named_and_the_one_before_it_used(
    build, tmp_path, capfd, damage, message
):
    changes = dict(default_hooks=keeping(3), randomness=dict(seed=0))
    with pytest.raises(InterruptedError):
        build(tmp_path, **changes, custom_hooks=[dict(type='Stop', at=8)]).train()
    last = tmp_path / 'iter_8.pth'
    damage(last)
    assert_finishes(build, tmp_path, **changes)
    assert f'Not resumed: {last} {message}' in ''.join(capfd.readouterr())


def test_link_in_the_work_dir_is_not_followed(build, tmp_path):
    """Neither in the place of a checkpoint nor in that of a file to be written."""
    others = tmp_path / 'others.txt'
    others.write_text('valuable')
    for name in ('iter_3.pth', 'iter_4.pth.part'):
        (tmp_path / name).symlink_to(others)
    build(tmp_path, default_hooks=keeping(1)).train()
    assert others.read_text() == 'valuable'
    assert checkpoints(tmp_path) == {'iter_15.pth'}


def test_without_an_intact_checkpoint(build, tmp_path):
    with pytest.raises(InterruptedError):
        build(tmp_path, custom_hooks=[dict(type='Stop', at=2)]).train()
    for name in checkpoints(tmp_path):
        os.truncate(tmp_path / name, 100)
    with pytest.raises(CheckpointError, match=r'none of .*iter_2\.pth, .*iter_1\.pth'):
        build(tmp_path, resume=True).train()


@pytest.mark.parametrize('value', [math.nan, math.inf])
def test_loss_that_is_not_finite_stops_the_training(build, tmp_path, value):
    changes = dict(default_hooks=keeping(1), randomness=dict(seed=0))
    spoilt = dict(type='NoisyNet', spoil=(4, value))
    message = f'iteration 4: loss_b is {value};.*iter_3.pth'
    with pytest.raises(FloatingPointError, match=message):
        build(tmp_path, **changes, model=spoilt).train()
    assert checkpoints(tmp_path) == {'iter_3.pth'}
    assert_finishes(build, tmp_path, **changes)


def test_weights_that_are_not_finite_are_not_saved(build, tmp_path):
    """The step that spoils them follows a loss that was finite."""
    optimizer = dict(type='SGD', lr=math.inf)
    with pytest.raises(FloatingPointError, match=r'iteration 1: layers\S+ is not finite'):
        build(tmp_path, optim_wrapper=dict(optimizer=optimizer)).train()
    assert not checkpoints(tmp_path)


def test_a_folder_that_cannot_be_flushed_is_no_failure(tmp_path, monkeypatch):
    """Some network file systems cannot flush folders."""
    fsync = os.fsync

    def flush(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fsync(descriptor)

    monkeypatch.setattr(os, 'fsync', flush)
    path = tmp_path / 'file'
    write_whole(str(path), lambda part: Path(part).write_text('whole') and None)
    assert path.read_text() == 'whole'
    assert list(tmp_path.iterdir()) == [path]
