import os
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch.utils.data import DataLoader

from mmgcnl.engine.preemption import protect_workers

ACCUMULATED = dict(
    optimizer=dict(type='SGD', lr=0.005, momentum=0.9), accumulative_counts=2
)


@HOOKS.register_module()
class Terminate(Hook):
    """Sends SIGTERM to this process, or to its worker processes, in an iteration."""

    def __init__(self, at: int, stage: str = 'train', to: str = 'self') -> None:
        self.at = at
        self.stage = stage
        self.to = to

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if (runner.iter, self.stage) != (self.at, 'train'):
            return
        if self.to == 'self':
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            for worker in runner.train_loop.dataloader_iterator._iterator._workers:
                subprocess.run(['kill', str(worker.pid)], check=True)

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if (runner.iter, self.stage) == (self.at, 'val'):
            os.kill(os.getpid(), signal.SIGTERM)


def final(work_dir: Path) -> dict:
    path = (work_dir / 'last_checkpoint').read_text()
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize(
    ('by_epoch', 'at', 'stage', 'saved'),
    [
        (False, 6, 'train', 'iter_7.pth'),
        (False, 4, 'val', 'iter_4.pth'),
        (True, 6, 'train', 'iter_7.pth'),
        (True, 9, 'train', 'iter_10.pth'),  # the last of the second epoch
        (True, 10, 'val', 'epoch_2.pth'),
    ],
)
def test_sigterm_saves_a_checkpoint(
    build, tmp_path, monkeypatch, by_epoch, at, stage, saved
):
    """Between two updates, with averaged weights, which a validation swaps in."""
    monkeypatch.setattr('mmgcnl.engine.preemption.VAL_INTERVAL', 2)
    ema = dict(type='EMAHook', momentum=0.1)
    hook = dict(type='CheckpointHook', by_epoch=by_epoch, max_keep_ckpts=1)
    loop = dict(by_epoch=False, max_iters=15, val_interval=2)
    if by_epoch:
        loop = dict(by_epoch=True, max_epochs=3)
    changes = dict(
        randomness=dict(seed=0),
        optim_wrapper=ACCUMULATED,
        default_hooks=dict(checkpoint=dict(hook, interval=1 if by_epoch else 5)),
        train_cfg=loop,
        val_evaluator=dict(type='Output'),
    )
    handler = signal.getsignal(signal.SIGTERM)
    stopping = dict(type='Terminate', at=at, stage=stage)
    with pytest.raises(SystemExit) as stop:
        build(tmp_path / 'a', by_epoch, **changes, custom_hooks=[ema, stopping]).train()
    assert stop.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is handler
    assert Path((tmp_path / 'a/last_checkpoint').read_text()).name == saved
    assert (tmp_path / 'a' / saved).exists()
    build(tmp_path / 'a', by_epoch, **changes, custom_hooks=[ema], resume=True).train()
    build(tmp_path / 'b', by_epoch, **changes, custom_hooks=[ema]).train()
    found, expected = final(tmp_path / 'a'), final(tmp_path / 'b')
    for part in ('state_dict', 'ema_state_dict'):
        for key, value in expected[part].items():
            assert torch.equal(found[part][key], value), key
    # It was one of those to keep, or is removed after the next.
    names = [{path.name for path in (tmp_path / n).glob('*.pth')} for n in 'ab']
    assert names[0] == names[1] and len(names[0]) == 1


def test_repeated_sigterms_leave_one_checkpoint(build, tmp_path):
    for at in (5, 7, 8):
        with pytest.raises(SystemExit):
            hooks = [dict(type='Terminate', at=at)]
            build(tmp_path, True, custom_hooks=hooks, resume=True).train()
        interrupted = [path.name for path in tmp_path.glob('iter_*.pth')]
        assert interrupted == [f'iter_{at + 1}.pth']
    build(tmp_path, True, resume=True).train()
    assert not list(tmp_path.glob('iter_*.pth'))


def test_sigterm_leaves_the_checkpoint_of_another_folder(build, tmp_path):
    first = dict(load_from=str(tmp_path / 'one/iter_6.pth'), resume=True)
    for folder, at, more in (('one', 5, {}), ('two', 7, first)):
        with pytest.raises(SystemExit):
            hooks = [dict(type='Terminate', at=at)]
            build(tmp_path / folder, True, custom_hooks=hooks, **more).train()
    assert (tmp_path / 'one/iter_6.pth').is_file()
    assert (tmp_path / 'two/iter_8.pth').is_file()


def test_worker_of_a_fork_server_ends_when_the_training_ends_it(monkeypatch):
    for name in ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS'):
        monkeypatch.setenv(name, '1')  # the signal could go to another thread
    loader = DataLoader(
        torch.arange(4.0), num_workers=1, multiprocessing_context='forkserver'
    )
    batches = iter(protect_workers(loader))
    next(batches)
    (worker,) = batches._workers
    worker.terminate()
    worker.join(60)
    assert worker.exitcode == 0


def test_workers_outlive_a_sigterm_that_is_not_their_parents(build, tmp_path):
    """A scheduler sends it to all processes; the training must reach its checkpoint."""
    dataloader = dict(
        batch_size=2,
        num_workers=1,
        dataset=dict(type='Noise'),
        sampler=dict(type='InfiniteSampler'),
    )
    changes = dict(
        train_dataloader=dataloader,
        train_cfg=dict(by_epoch=False, max_iters=9, val_interval=20),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False)),
    )
    hooks = [dict(type='Terminate', at=2, to='workers')]
    build(tmp_path, **changes, custom_hooks=hooks).train()
    assert (tmp_path / 'iter_9.pth').exists()
