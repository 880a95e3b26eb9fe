"""Stopping at SIGTERM with a checkpoint, as schedulers and torchrun expect it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from mmengine.dist import all_gather_object, all_reduce, barrier, get_world_size
from mmengine.hooks import EMAHook, Hook
from torch.utils.data import DataLoader

from .processes import close_process_group

# What a shell reports for a process that SIGTERM ended.
EXIT_CODE = 128 + signal.SIGTERM
# Between two checks of several processes for a signal are at most so many iterations or
# seconds, whichever are fewer: each check makes the processes, and the host and its GPU,
# wait for each other. torchrun's grace period is 30 s. A single process checks always.
TRAIN_INTERVAL = 10
TRAIN_SECONDS = 5.0
VAL_INTERVAL = 10  # validation batches


class PreemptionHook(Hook):
    """Saves a checkpoint at SIGTERM and exits with status 143.

    When any process has got the signal, all of them stop after the same iteration, or
    within a validation, which is done again on resuming.
    """

    priority = 'LOWEST'  # after CheckpointHook, which may have saved this iteration already

    def __init__(self) -> None:
        self.asked = False
        self._training = False
        self._in_step = True
        self._interval = 1  # iterations from one check to the next
        self._left = 1  # until the next
        self._checked = 0.0

    @contextmanager
    def noticing_sigterm(self) -> Iterator[None]:
        """Note a SIGTERM that comes inside. Without effect outside of the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGTERM, self._note)
        self._training = True
        self._checked = time.monotonic()
        try:
            yield
        finally:
            self._training = False
            signal.signal(signal.SIGTERM, before)

    def _note(self, signum: int, frame: Any) -> None:
        self.asked = True

    def _agree(self, seconds: float = 0.0) -> tuple[bool, float]:
        """Whether any process was asked to stop, and the largest of their ``seconds``."""
        known = torch.tensor([float(self.asked), seconds])
        all_reduce(known, 'max')
        return bool(known[0]), known[1].item()

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Stop after this iteration if it is one to check and any process was asked to."""
        if not self._training:
            return
        self._left -= 1
        if self._left > 0:
            return
        passed = time.monotonic() - self._checked
        asked, seconds = self._agree(passed / self._interval)
        if asked:
            self._stop(runner, runner.iter + 1)
        if get_world_size() > 1:  # all know the same seconds, so they check together
            often = int(TRAIN_SECONDS / max(seconds, 1e-3))
            self._interval = min(max(often, 1), TRAIN_INTERVAL)
        self._left = self._interval
        self._checked = time.monotonic()

    def before_val_epoch(self, runner: Any) -> None:
        """Check whether all processes validate the same number of batches."""
        lengths = all_gather_object(len(runner.val_dataloader))
        self._in_step = len(set(lengths)) == 1

    def after_val_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Stop within a validation of the training if any process was asked to."""
        if (batch_idx + 1) % VAL_INTERVAL or not (self._in_step and self._training):
            return
        if self._agree()[0]:
            for hook in runner.hooks:
                if isinstance(hook, EMAHook):
                    hook._swap_ema_parameters()  # it validates the averaged weights
            self._stop(runner, runner.iter)

    def _stop(self, runner: Any, done: int) -> None:
        """Save a checkpoint unless there is one, and exit."""
        try:
            runner.save_interrupted(done)
        except OSError as error:
            runner.logger.error(str(error))
        barrier()  # a launcher may kill the others when the first process exits
        close_process_group()
        runner.logger.warning(
            f'SIGTERM: stopped after iteration {done}; continue with --resume'
        )
        raise SystemExit(EXIT_CODE)


def protect_workers(loader: DataLoader) -> DataLoader:
    """Let the worker processes of a loader ignore SIGTERM, unless their parent sends it.

    Schedulers and torchrun signal all processes of a training. The parent needs its
    workers until it has stopped; it ends them by itself.

    Workers that are not forked may already run threads that their imports started. SIGTERM
    may be delivered to one of these, and then ends the worker.

    Args:
        loader: It is returned, and must not have started its workers yet.
    """
    # The parent of a worker may be a fork server: name the process that ends it.
    loader.worker_init_fn = partial(_start_worker, loader.worker_init_fn, os.getpid())
    return loader


def _start_worker(
    initialize: Callable[[int], None] | None, owner: int, worker: int
) -> None:
    if initialize is not None:
        initialize(worker)
    if not hasattr(signal, 'sigwaitinfo'):  # macOS
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_wait_for_owner, args=(owner,), daemon=True).start()


def _wait_for_owner(owner: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != owner:
        pass
    os._exit(0)
