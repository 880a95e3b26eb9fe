"""Exact resuming: the random state, and the place in the order of the data.

mmengine saves weights, optimizer, schedulers and logs, but not the random state, and it
restarts an interrupted epoch from its beginning.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import torch
from mmengine.dataset import InfiniteSampler
from mmengine.runner import EpochBasedTrainLoop as _EpochBasedTrainLoop
from mmengine.runner import IterBasedTrainLoop as _IterBasedTrainLoop
from torch import nn
from torch.utils.data import DataLoader, get_worker_info


def get_random_state() -> dict[str, Any]:
    """Get the states of this process's random generators.

    Returns:
        A dict of tensors, numbers and tuples of these, which a checkpoint can hold.
    """
    name, keys, *rest = cast(tuple, np.random.get_state())
    state = dict(
        python=random.getstate(),
        numpy=(name, torch.from_numpy(keys.astype(np.int64)), *rest),
        torch=torch.get_rng_state(),
    )
    if torch.cuda.is_available():
        state['cuda'] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Set what :func:`get_random_state` returned.

    Args:
        state: The states. Their tensors may be on any device.
    """
    random.setstate(state['python'])
    name, keys, *rest = state['numpy']
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state['torch'].cpu())
    if 'cuda' in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state['cuda'].cpu())


class Batches:
    """A batch sampler that numbers its batches, and that can start in the middle.

    Worker processes load ahead, so that their random states cannot be saved. Instead, each
    batch seeds the worker with its number. Augmentation therefore does not depend on the
    number of workers either.

    Args:
        batches: The batch sampler to wrap.
        seed: Seed of the training.
        rank: Rank of the process.
    """

    def __init__(self, batches: Any, seed: int, rank: int) -> None:
        self.batches = batches
        self.seed = (seed, rank)
        self.count = 0  # batches so far, over all passes
        self.rest: Iterator[list[int]] | None = None

    def __iter__(self) -> Iterator[list[int]]:
        rest, self.rest = self.rest, None
        for indices in self.batches if rest is None else rest:
            yield _Batch(indices, (*self.seed, self.count))
            self.count += 1

    def __len__(self) -> int:
        return len(self.batches)

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)['batches'], name)

    def skip(self, number: int) -> int:
        """Skip batches, so that the next pass starts after them.

        The sampler is told the number of each pass that begins, as mmengine's
        iteration-based loop does it.

        Args:
            number: How many batches to skip.

        Returns:
            The number of passes that ended on the way.
        """
        sampler: Any = getattr(self.batches, 'sampler', None)
        rest, passes = iter(self.batches), 0
        for _ in range(number):
            if next(rest, None) is None:
                passes += 1
                if hasattr(sampler, 'set_epoch'):
                    sampler.set_epoch(passes)
                rest = iter(self.batches)
                next(rest)
        self.rest = rest
        return passes


class _Batch(list):
    """Indices of samples, and the seed for the worker that loads them."""

    def __init__(self, indices: Sequence[int] = (), seed: tuple[int, ...] = ()) -> None:
        super().__init__(indices)
        self.seed = seed


class _GetItems:
    """Loads a batch of ``dataset``; a worker process first takes the batch's seed."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __call__(self, batch: _Batch) -> list[Any]:
        if get_worker_info() is not None:
            seeds = np.random.SeedSequence(batch.seed).generate_state(3)
            random.seed(int(seeds[0]))
            np.random.seed(seeds[1])
            torch.manual_seed(int(seeds[2]))
        return [self.dataset[index] for index in batch]


def number_batches(loader: DataLoader, seed: int, rank: int) -> Batches:
    """Replace the batch sampler of a loader by :class:`Batches`.

    Args:
        loader: The loader, not iterated over yet.
        seed: Seed of the training.
        rank: Rank of the process.
    """
    sampler: Any = getattr(loader.batch_sampler, 'sampler', None)
    if isinstance(sampler, InfiniteSampler):
        # mmengine 0.10.7 has already started workers, which have drawn from the sampler.
        sampler.indices = sampler._indices_of_rank()
        loader._iterator = None
    batches = Batches(loader.batch_sampler, seed, rank)
    # A DataLoader forbids assignment, but its iterators read the attribute each time.
    vars(loader)['batch_sampler'] = batches
    loader.dataset.__getitems__ = _GetItems(loader.dataset)  # type: ignore[attr-defined]
    return batches


class EpochBasedTrainLoop(_EpochBasedTrainLoop):
    """mmengine's loop, which can also resume in the middle of an epoch."""

    batches_done = 0  # of the epoch that is resumed; Runner.resume sets it

    def run(self) -> nn.Module:
        """Train, with numbered batches."""
        self.batches = number_batches(self.dataloader, self.runner.seed, self.runner.rank)
        return super().run()

    def run_epoch(self) -> None:
        """Run an epoch, or the rest of the one that was interrupted."""
        runner = self.runner
        runner.call_hook('before_train_epoch')
        runner.model.train()
        done, self.batches_done = self.batches_done, 0
        if done:
            self.batches.skip(done)
        else:
            # Creating the iterator draws a seed: restore the state before that as well.
            runner.restore_random_state()
        self.batches.count = self._iter
        batches = iter(self.dataloader)
        runner.restore_random_state()
        for index, batch in enumerate(batches, done):
            self.run_iter(index, batch)
        runner.call_hook('after_train_epoch')
        self._epoch += 1


class IterBasedTrainLoop(_IterBasedTrainLoop):
    """mmengine's loop, which restores the random state after skipping what was done."""

    def run(self) -> nn.Module:
        """Train, or go on with a training that was interrupted."""
        runner = self.runner
        runner.call_hook('before_train')
        runner.call_hook('before_train_epoch')
        batches = number_batches(self.dataloader, runner.seed, runner.rank)
        batches.count = self._iter
        self.dataloader_iterator._epoch = batches.skip(self._iter)
        self.dataloader_iterator._iterator = iter(self.dataloader)
        runner.restore_random_state()
        while self._iter < self._max_iters and not self.stop_training:
            runner.model.train()
            self.run_iter(next(self.dataloader_iterator))
            self._decide_current_val_interval()
            if (
                runner.val_loop is not None
                and self._iter >= self.val_begin
                and (self._iter % self.val_interval == 0 or self._iter == self._max_iters)
            ):
                runner.val_loop.run()
        runner.call_hook('after_train_epoch')
        runner.call_hook('after_train')
        return runner.model
