"""Faults that the processes of a training meet, given by the environment variable FAULTS.

It is a list of [attempt, rank, iterations done, kind] in JSON. The attempt is the number of
restarts before, or null for any.
"""

import json
import os
import signal
import time
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class Faults(Hook):
    def before_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None
    ) -> None:
        now = int(os.environ.get('TORCHELASTIC_RESTART_COUNT', 0))
        for attempt, rank, done, kind in json.loads(os.environ.get('FAULTS', '[]')):
            if attempt in (None, now) and [rank, done] == [runner.rank, runner.iter]:
                meet(kind, runner)


def meet(kind: str, runner: Any) -> None:
    if kind == 'nan':
        torch.nn.init.constant_(next(runner.model.parameters()), torch.nan)
    elif kind == 'node dies':
        os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind.startswith('fsync takes '):  # as on a slow network file system
        seconds = float(kind.removeprefix('fsync takes '))
        os.fsync = lambda descriptor: time.sleep(seconds)
    elif kind == 'preempted':  # torchrun passes it on to all processes
        os.kill(os.getppid(), signal.SIGTERM)
    else:
        os.kill(os.getpid(), signal.Signals[kind])
