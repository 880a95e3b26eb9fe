"""Hooks of every training: checkpoints that survive failures, and finite losses."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.hooks import CheckpointHook as _CheckpointHook
from mmengine.hooks import EarlyStoppingHook as _EarlyStoppingHook
from mmengine.hooks import Hook
from mmengine.runner import Runner

from .random_state import get_random_state, set_random_state


class CheckpointHook(_CheckpointHook):
    """mmengine's CheckpointHook, which removes old checkpoints only after writing the new.

    mmengine removes first: with ``max_keep_ckpts=1`` or ``save_best`` there is no
    checkpoint for a while, and none at all if the disk is full.
    """

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        with self._removing_last():
            super()._save_checkpoint_with_step(runner, step, meta)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        with self._removing_last():
            super()._save_best_checkpoint(runner, metrics)

    file_backend: Any

    @contextmanager
    def _removing_last(self) -> Iterator[None]:
        """Postpone the removals inside to the end; drop them if there is an error."""
        backend: Any = self.file_backend
        self.file_backend = later = _RemovingLater(backend)
        try:
            yield
        finally:
            self.file_backend = backend
        written = {
            self.last_ckpt,
            getattr(self, 'best_ckpt_path', None),
            *getattr(self, 'best_ckpt_path_dict', {}).values(),
        }
        for path in later.removed:
            if path not in written:
                backend.remove(path)


class _RemovingLater:
    """A file backend that only notes what it is asked to remove."""

    def __init__(self, backend: Any) -> None:
        self.backend = backend
        self.removed: list[str] = []

    def remove(self, path: str) -> None:
        self.removed.append(path)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)


class EarlyStoppingHook(_EarlyStoppingHook):
    """mmengine's EarlyStoppingHook, which a resumed training continues.

    mmengine forgets the best score and how many validations have passed since.
    """

    priority = 'LOW'  # before the checkpoint that save_best writes

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add the state of the hook to a checkpoint."""
        checkpoint['meta'].setdefault('early_stopping', {})[self.monitor] = dict(
            wait_count=self.wait_count,
            best_score=float(self.best_score),
            stop_training=runner.train_loop.stop_training,  # type: ignore[attr-defined]
        )

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Restore the state of the hook from a checkpoint that is resumed."""
        states = checkpoint.get('meta', {}).get('early_stopping', {})
        if runner._resume and self.monitor in states:
            state = states[self.monitor]
            self.wait_count = state['wait_count']
            self.best_score = state['best_score']
            runner.train_loop.stop_training = state['stop_training']


class GuardHook(Hook):
    """Stops at a loss that is not finite, and restores the random state after validation.

    Resuming needs the latter: a validation after the checkpoint must make no difference.
    """

    priority = 'VERY_HIGH'  # before a checkpoint is saved

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict | None = None,
    ) -> None:
        """Check the losses of an iteration.

        Raises:
            FloatingPointError: A loss is not finite.
        """
        if not isinstance(outputs, dict):
            return
        # mmengine adds up the values with 'loss' in their names, and calls the sum 'loss'.
        losses = {k: torch.as_tensor(v).item() for k, v in outputs.items() if 'loss' in k}
        wrong = {k: v for k, v in losses.items() if not math.isfinite(v)}
        if not wrong:
            return
        named = {k: v for k, v in wrong.items() if k != 'loss'} or wrong
        last = runner.message_hub.runtime_info.get('last_ckpt')
        raise FloatingPointError(
            f'iteration {runner.iter + 1}: '
            + ', '.join(f'{name} is {value}' for name, value in named.items())
            + '; lower optim_wrapper.optimizer.lr, set optim_wrapper.clip_grad, or check '
            f'the data. Last checkpoint: {last or "none"}'
        )

    def after_val_epoch(self, runner: Any, metrics: dict | None = None) -> None:
        """Note that the validation has taken place."""
        runner.validated_iter = runner.iter

    def before_val(self, runner: Runner) -> None:
        """Keep the random state of the training."""
        runner.state_before_val = get_random_state()

    def after_val(self, runner: Runner) -> None:
        """Restore the random state of the training."""
        set_random_state(runner.state_before_val)
        runner.state_before_val = None
