"""Going on exactly where a training stopped: random numbers and the order of the data.

mmengine saves weights, optimizer, schedulers and logs, but no random state, and begins an
epoch that was interrupted again from its start.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import torch
from mmengine.dataset import InfiniteSampler
from mmengine.runner import EpochBasedTrainLoop as _EpochBasedTrainLoop
from mmengine.runner import IterBasedTrainLoop as _IterBasedTrainLoop
from torch import nn
from torch.utils.data import DataLoader


def get_random_state() -> dict[str, Any]:
    """States of this process's generators, as tensors, numbers and tuples of them."""
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
    """Set what :func:`get_random_state` returned, from whichever device it was loaded."""
    random.setstate(state['python'])
    name, keys, *rest = state['numpy']
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state['torch'].cpu())
    if 'cuda' in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state['cuda'].cpu())


def skip_batches(loader: DataLoader, number: int) -> int:
    """Have the next pass over ``loader`` begin ``number`` batches later.

    They are not loaded. Passes that end within them are counted as mmengine's
    iteration-based loop does, which tells the sampler each one's number.

    Returns:
        The number of passes that ended.
    """
    batches: Any = loader.batch_sampler
    sampler: Any = getattr(batches, 'sampler', None)
    if isinstance(sampler, InfiniteSampler):
        # mmengine 0.10.7 starts the workers at once, and they have drawn from it.
        sampler.indices = sampler._indices_of_rank()
    rest, passes = iter(batches), 0
    for _ in range(number):
        if next(rest, None) is None:
            passes += 1
            if hasattr(sampler, 'set_epoch'):
                sampler.set_epoch(passes)
            rest = iter(batches)
            next(rest)
    # A DataLoader forbids to assign it; its iterators ask for it each time.
    vars(loader)['batch_sampler'] = _FirstTheRest(batches, rest)
    return passes


class _FirstTheRest:
    """A batch sampler in whose first pass only ``rest`` is left."""

    def __init__(self, batches: Any, rest: Iterator[list[int]]) -> None:
        self.batches = batches
        self.rest: Iterator[list[int]] | None = rest

    def __iter__(self) -> Iterator[list[int]]:
        rest, self.rest = self.rest, None
        return iter(self.batches) if rest is None else rest

    def __len__(self) -> int:
        return len(self.batches)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.batches, name)


class EpochBasedTrainLoop(_EpochBasedTrainLoop):
    """mmengine's, but an epoch that was interrupted goes on where it was."""

    batches_done = 0  # of the epoch that is resumed; Runner.resume sets it

    def run_epoch(self) -> None:
        runner = self.runner
        runner.call_hook('before_train_epoch')
        runner.model.train()
        done, self.batches_done = self.batches_done, 0
        if done:
            skip_batches(self.dataloader, done)
        else:
            # Before the iterator, which draws a seed, as it was when it was saved.
            runner.restore_random_state()
        batches = iter(self.dataloader)
        runner.restore_random_state()
        for index, batch in enumerate(batches, done):
            self.run_iter(index, batch)
        runner.call_hook('after_train_epoch')
        self._epoch += 1


class IterBasedTrainLoop(_IterBasedTrainLoop):
    """mmengine's, with the random state restored after what was done is skipped."""

    def run(self) -> nn.Module:
        runner = self.runner
        runner.call_hook('before_train')
        runner.call_hook('before_train_epoch')
        if self._iter > 0:
            passes = skip_batches(self.dataloader, self._iter)
            self.dataloader_iterator._epoch = passes
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
