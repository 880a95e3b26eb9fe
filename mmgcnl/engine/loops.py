"""mmengine's training loops, which continue an interrupted training exactly.

mmengine restarts an interrupted epoch from its beginning, does not restore the random
state, and skips the validation during which a training was interrupted.
"""

from __future__ import annotations

from typing import Any

from mmengine.runner import EpochBasedTrainLoop as _EpochBasedTrainLoop
from mmengine.runner import IterBasedTrainLoop as _IterBasedTrainLoop
from torch import nn

from .batches import number_batches


class EpochBasedTrainLoop(_EpochBasedTrainLoop):
    """mmengine's loop, which can also resume in the middle of an epoch."""

    # Runner.resume sets these two: of the epoch that is resumed; whether none was running.
    batches_done = 0
    between_epochs = True
    epoch_start = 0  # iterations before the epoch that is running

    def run(self) -> nn.Module:
        """Train, or continue a training that was interrupted."""
        runner: Any = self.runner
        self.batches = number_batches(self.dataloader, runner.seed, runner.rank)
        runner.call_hook('before_train')
        if self._epoch and self.between_epochs:
            runner.catch_up_on_validation(self._validate_if_due)
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            self._validate_if_due()
        runner.call_hook('after_train')
        return runner.model

    def _validate_if_due(self) -> None:
        _validate_if_due(self, self._epoch, self._max_epochs)

    def run_epoch(self) -> None:
        """Run an epoch, or the rest of the one that was interrupted."""
        runner: Any = self.runner
        runner.call_hook('before_train_epoch')
        runner.model.train()
        done, self.batches_done = self.batches_done, 0
        self.epoch_start = self._iter - done
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
        self.epoch_start = self._iter


class IterBasedTrainLoop(_IterBasedTrainLoop):
    """mmengine's loop, which restores the random state after skipping what was done."""

    def run(self) -> nn.Module:
        """Train, or continue a training that was interrupted."""
        runner: Any = self.runner
        runner.call_hook('before_train')
        runner.call_hook('before_train_epoch')
        batches = number_batches(self.dataloader, runner.seed, runner.rank)
        batches.count = self._iter
        self.dataloader_iterator._epoch = batches.skip(self._iter)
        self.dataloader_iterator._iterator = iter(self.dataloader)
        if self._iter:
            runner.catch_up_on_validation(self._validate_if_due)
        runner.restore_random_state()
        while self._iter < self._max_iters and not self.stop_training:
            runner.model.train()
            self.run_iter(next(self.dataloader_iterator))
            self._validate_if_due()
        runner.call_hook('after_train_epoch')
        runner.call_hook('after_train')
        return runner.model

    def _validate_if_due(self) -> None:
        _validate_if_due(self, self._iter, self._max_iters)


def _validate_if_due(loop: Any, done: int, last: int) -> None:
    loop._decide_current_val_interval()
    due = done >= loop.val_begin and (done % loop.val_interval == 0 or done == last)
    if due and loop.runner.val_loop is not None:
        loop.runner.val_loop.run()
