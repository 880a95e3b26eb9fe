"""Faults that the processes of a training meet, given by the environment variable FAULTS.

It is a list of [attempt, rank, iterations done, kind] in JSON. The attempt is the number of
restarts before, or null for any. The kind is the name of a signal, or one of those in
:func:`meet`; 'wait' is until there is a file ``go`` in the current folder.
"""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

import tests.shortcuts  # noqa: F401  for speed
from mmgcnl.engine import preemption

preemption.TRAIN_INTERVAL = 2  # the trainings of the tests are short


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
    elif kind == 'wait':
        while not Path('go').exists():
            Path('waiting').touch()
            time.sleep(0.1)
    elif kind == 'node dies':
        os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind.startswith('fsync takes '):  # as on a slow network file system
        seconds = float(kind.removeprefix('fsync takes '))
        os.fsync = lambda descriptor: time.sleep(seconds)
    elif kind == 'preempted':  # torchrun passes it on to all processes
        os.kill(os.getppid(), signal.SIGTERM)
        (hook,) = (h for h in runner.hooks if isinstance(h, preemption.PreemptionHook))
        while not hook.asked:
            time.sleep(0.01)
    else:
        os.kill(os.getpid(), signal.Signals[kind])


@HOOKS.register_module()
class Images(Hook):
    """Writes the images of every iteration into images.txt of the work dir."""

    def before_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None
    ) -> None:
        with open(Path(runner.work_dir) / 'images.txt', 'a') as file:
            for sample, image in zip(data_batch['data_samples'], data_batch['inputs']):
                print(runner.iter, sample.img_path, image.float().mean().item(), file=file)
