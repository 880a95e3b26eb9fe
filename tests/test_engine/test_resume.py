import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class NoteBatches(Hook):
    """Notes epoch and batch of every iteration."""

    seen: list = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.seen.append((runner.epoch, batch_idx))


@pytest.fixture
def assert_resumes(build, tmp_path):
    """The training that stopped at an iteration and went on equals the one that did not.

    Without a seed in the config, the first one chooses it and the checkpoint tells it.
    """

    def train(folder: str, final: str, **changes):
        build(tmp_path / folder, **changes).train()
        return torch.load(tmp_path / folder / final, weights_only=True)['state_dict']

    def assert_resumes(stop: int, final: str, seed: int | None, **changes):
        changes['randomness'] = dict(seed=seed)
        np.random.seed(3)  # what mmengine chooses a seed by
        whole = train('whole', final, **changes)
        np.random.seed(3)
        with pytest.raises(InterruptedError):
            train('parts', final, **changes, custom_hooks=[dict(type='Stop', at=stop)])
        np.random.seed(4)
        parts = train('parts', final, **changes, resume=True)
        other = train('other', final, **{**changes, 'randomness': dict(seed=9)})
        for key, value in whole.items():
            assert torch.equal(parts[key], value), key
        assert not any(torch.equal(other[key], value) for key, value in whole.items())

    return assert_resumes


@pytest.mark.parametrize('seed', [0, None])
@pytest.mark.parametrize('stop', [5, 12])
def test_iterations(assert_resumes, stop, seed):
    """5: behind a validation. Both: the last checkpoint is before a skipped part."""
    hook = dict(type='CheckpointHook', by_epoch=False, interval=2 if stop == 5 else 5)
    assert_resumes(stop, 'iter_15.pth', seed, default_hooks=dict(checkpoint=hook))


@pytest.mark.parametrize(
    ('interval', 'stop'),
    [
        pytest.param(None, 7, id='each epoch, stopped within one'),
        pytest.param(2, 7, id='checkpoint within the epoch'),
        pytest.param(5, 12, id='checkpoint in the last iteration of an epoch'),
    ],
)
def test_epochs(assert_resumes, interval, stop):
    hook = dict(type='CheckpointHook', by_epoch=interval is None, interval=interval or 1)
    final = 'iter_15.pth' if interval else 'epoch_3.pth'
    hooks = dict(checkpoint=hook)
    assert_resumes(stop, final, None, by_epoch=True, default_hooks=hooks)


def test_iterations_over_a_finite_sampler(assert_resumes, monkeypatch):
    """15 iterations are three passes over it, each in another order."""
    monkeypatch.setattr('time.sleep', lambda seconds: None)  # mmengine waits 2 s each
    dataloader = dict(
        batch_size=2,
        num_workers=0,
        dataset=dict(type='Noise'),
        sampler=dict(type='DefaultSampler'),
    )
    assert_resumes(8, 'iter_15.pth', 0, train_dataloader=dataloader)


def test_save_best_saves_the_state_before_the_validation(assert_resumes):
    """It saves the checkpoint once more, after the validation has drawn numbers."""
    hook = dict(type='CheckpointHook', interval=1, save_best='score', rule='less')
    hooks = dict(checkpoint=hook)
    assert_resumes(7, 'epoch_3.pth', 0, by_epoch=True, default_hooks=hooks)


@pytest.mark.parametrize('by_epoch', [True, False])
def test_worker_processes(assert_resumes, by_epoch):
    """They are batches ahead when the training stops, and start anew."""
    dataloader = dict(
        batch_size=2,
        # An endless loader is torn down in the end, and PyTorch waits 5 s for each worker.
        num_workers=2 if by_epoch else 1,
        dataset=dict(type='Noise'),
        sampler=dict(type='DefaultSampler' if by_epoch else 'InfiniteSampler'),
    )
    hook = dict(type='CheckpointHook', by_epoch=False, interval=3)
    assert_resumes(
        8,
        'iter_15.pth',
        None,
        by_epoch=by_epoch,
        train_dataloader=dataloader,
        default_hooks=dict(checkpoint=hook),
    )


def test_epochs_after_a_change_of_the_batch_size(build, tmp_path):
    """The first epoch has 5 batches, the others 4: the place in them is saved."""
    hook = dict(type='CheckpointHook', by_epoch=False, interval=1)
    changes = dict(by_epoch=True, default_hooks=dict(checkpoint=hook))

    def stop(at):
        return [dict(type='Stop', at=at), dict(type='NoteBatches')]

    with pytest.raises(InterruptedError):
        build(tmp_path, **changes, custom_hooks=stop(5)).train()
    loader = dict(
        batch_size=3,
        num_workers=0,
        dataset=dict(type='Noise'),
        sampler=dict(type='DefaultSampler'),
    )
    changes.update(train_dataloader=loader, resume=True)
    with pytest.raises(InterruptedError):
        build(tmp_path, **changes, custom_hooks=stop(7)).train()
    NoteBatches.seen.clear()
    build(tmp_path, **changes, custom_hooks=stop(-1)).train()
    second, third = ([(epoch, i) for i in range(4)] for epoch in (1, 2))
    assert NoteBatches.seen == [*second[2:], *third]


def test_other_number_of_processes_is_said(build, tmp_path, capfd):
    """Also that it costs the gradients accumulated since the last update."""
    wrapper = dict(optimizer=dict(type='SGD', lr=0.005), accumulative_counts=4)
    with pytest.raises(InterruptedError):
        stop = dict(type='Stop', at=3)
        build(tmp_path, optim_wrapper=wrapper, custom_hooks=[stop]).train()
    path = tmp_path / 'iter_3.pth'
    checkpoint = torch.load(path, weights_only=True)
    meta = checkpoint['meta']
    assert len(meta['gradients']) == 1 and meta['gradients'][0].keys() == {
        f'layers.{layer}.{name}' for layer in (0, 2) for name in ('weight', 'bias')
    }
    for name in ('random_states', 'gradients'):  # as two processes would have saved it
        meta[name] = meta[name] * 2
    torch.save(checkpoint, path)
    build(tmp_path, optim_wrapper=wrapper, resume=True).train()
    output = ''.join(capfd.readouterr())
    assert 'was written by 2 processes and is resumed by 1' in output
    assert 'the gradients since the last update are lost' in output
    assert (tmp_path / 'iter_15.pth').exists()
