"""Hooks of every training: checkpoints that survive failures, and finite losses."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook as _CheckpointHook
from mmengine.hooks import EarlyStoppingHook as _EarlyStoppingHook
from mmengine.hooks import Hook
from mmengine.runner import Runner

from .checkpoints import check_loadable, to_builtin_types
from .random_state import get_random_state, set_random_state


class CheckpointNotSaved(OSError):
    """Checkpoints cannot be written, and the training has to stop."""


class CheckpointHook(_CheckpointHook):
    """mmengine's CheckpointHook, which a full disk or a failing file system does not stop.

    - It removes old checkpoints only after writing the new one. mmengine removes first:
      with ``max_keep_ckpts=1`` or ``save_best`` there is no checkpoint for a while, and
      none at all if the disk is full.
    - When a checkpoint cannot be written, the training goes on, and the next one is tried.

    Args:
        *args: See mmengine's CheckpointHook.
        max_failures: Stop at this number of checkpoints in a row that cannot be written.
            The last one of the training always stops it.
        **kwargs: See mmengine's CheckpointHook.
    """

    file_backend: Any

    def __init__(self, *args: Any, max_failures: int = 3, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if max_failures < 1:
            raise ValueError(f'max_failures={max_failures}: give at least 1')
        self.max_failures = max_failures
        self.failures = 0

    def save_interrupted(self, runner: Any, done: int) -> None:
        """Save after ``done`` iterations, since the training is about to be interrupted.

        A hook that saves by epoch removes this checkpoint once it has saved the next epoch,
        or another one of this kind.

        Raises:
            OSError: The checkpoint cannot be written.
        """
        meta = dict(epoch=runner.epoch, iter=done)
        if not self.by_epoch:
            self._save_checkpoint_with_step(runner, done, meta)
            return
        name = f'iter_{done}.pth'
        path = self.file_backend.join_path(self.out_dir, name)
        earlier = runner.message_hub.runtime_info.get('interrupted_ckpt')
        runner.message_hub.update_info('interrupted_ckpt', path)
        runner.save_checkpoint(
            self.out_dir,
            name,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=False,
            backend_args=self.backend_args,
            **self.args,
        )
        if is_main_process():
            Path(runner.work_dir, 'last_checkpoint').write_text(path)
            if earlier != path:
                self._remove_interrupted(earlier)

    def _remove_interrupted(self, path: str | None) -> None:
        """Remove such a checkpoint, unless the training was resumed from another folder."""
        if path is None or not self.file_backend.isfile(path):
            return
        if path == self.file_backend.join_path(self.out_dir, os.path.basename(path)):
            self.file_backend.remove(path)

    def _save_checkpoint_with_step(self, runner: Any, step: int, meta: dict) -> None:
        info = runner.message_hub.runtime_info
        with self._trying_again_later(runner, meta), self._removing_last():
            interrupted = info.pop('interrupted_ckpt', None)
            super()._save_checkpoint_with_step(runner, step, meta)
            self.failures = 0
            if is_main_process():
                self._remove_interrupted(interrupted)

    def _save_best_checkpoint(self, runner: Any, metrics: dict) -> None:
        meta = dict(iter=runner.iter)
        with self._trying_again_later(runner, meta), self._removing_last():
            super()._save_best_checkpoint(runner, metrics)

    @contextmanager
    def _trying_again_later(self, runner: Any, meta: dict) -> Iterator[None]:
        """Report that a checkpoint could not be written, and forget that it was tried."""
        info = runner.message_hub.runtime_info
        names = 'keep_ckpt_ids', 'last_ckpt', 'best_ckpt_path', 'best_ckpt_path_dict'
        own = deepcopy({name: vars(self)[name] for name in names if name in vars(self)})
        infos = dict(info)
        try:
            yield
        except CheckpointNotSaved:
            raise
        except OSError as error:
            self.__dict__.update(own)
            info.clear()
            info.update(infos)
            self.failures += 1
            left = self.max_failures - self.failures
            if left <= 0 or meta['iter'] >= runner.max_iters:
                raise CheckpointNotSaved(
                    error.errno, f'{error.strerror}: free some space and use --resume'
                ) from error
            runner.logger.error(
                f'{error}. The training goes on and saves again at the next checkpoint; '
                f'it stops if {left} more in a row cannot be written'
            )

    @contextmanager
    def _removing_last(self) -> Iterator[None]:
        """Postpone the removals inside to the end; drop them if there is an error."""
        removed: list[str] = []
        with patch.object(self.file_backend, 'remove', removed.append):
            yield
        written = {
            self.last_ckpt,
            getattr(self, 'best_ckpt_path', None),
            *getattr(self, 'best_ckpt_path_dict', {}).values(),
        }
        for path in removed:
            if path not in written:
                # An outer context, if saving the best also saves by interval, postpones it.
                self.file_backend.remove(path)


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


class FiniteLossHook(Hook):
    """Stops a training at a loss that is not finite."""

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


class RandomStateHook(Hook):
    """Restores the random state of the training after a validation.

    Resuming needs this: a validation after the checkpoint must make no difference.
    """

    priority = 'VERY_HIGH'  # before a checkpoint is saved

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


class LoadableCheckpointHook(Hook):
    """Makes sure that the checkpoints of a training can be loaded again."""

    priority = 'LOWEST'  # after hooks that add to a checkpoint

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Reduce the checkpoint to built-in types, and :func:`check_loadable`."""
        for key, value in checkpoint.items():
            checkpoint[key] = value if key == 'state_dict' else to_builtin_types(value)
        check_loadable(checkpoint)
