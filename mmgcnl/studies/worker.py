"""Carry out one run: train, test, measure, and write the results down."""

from __future__ import annotations

import fcntl
import json
import math
import os
import platform
import shlex
import socket
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any

import torch
from mmengine.fileio import dump

from mmgcnl.utils.provenance import git_revision, provenance
from mmgcnl.version import __version__

from .records import Record, append_records
from .runs import LAST_ABLATION, LAST_METRIC, Execution, Run, completed
from .spec import StudyError

POLL = 0.5  # seconds
_VERSIONS = ('python', 'torch', 'mmengine', 'mmcv', 'mmseg', 'mmdet')


class RunFailed(Exception):
    """A step of a run ended with an error."""


class Locked(Exception):
    """Another process works on the run."""


class Worker:
    """Carries out runs; each call is made in a thread of its own.

    Raises:
        StudyError: There are too few GPUs for the jobs.
    """

    def __init__(self, options: Execution) -> None:
        self.options = options
        self._stopping = threading.Event()
        self._processes: set[subprocess.Popen] = set()
        self._revision = git_revision() or f'v{__version__}'
        self._gpus = _gpu_groups(options)

    def stop(self) -> None:
        """Terminate all processes and start no more."""
        self._stopping.set()
        for process in list(self._processes):
            process.terminate()

    def carry_out(self, run: Run, lock: IO, slot: int) -> None:
        """Do the steps of a run that are left.

        Args:
            run: The run.
            lock: The locked file in its folder; it is closed at the end.
            slot: Number of the job, which has its own GPUs and port.

        Raises:
            RunFailed: A step ended with an error.
        """
        with lock:
            # Another process may have finished the run before this one got the lock.
            last = LAST_ABLATION if self.options.ablate else LAST_METRIC
            if run.key in completed(run.study, self.options.csv, last)[0]:
                return
            if self.options.ablate:
                start = time.monotonic()
                self._step(run, 'ablate', run.ablate_command(), slot)
                values = _ablations(run)
                values[LAST_ABLATION] = time.monotonic() - start
            else:
                self._prepare(run)
                self._train(run, lock, slot)
                self._step(run, 'test', run.test_command(), slot)
                self._step(run, 'distances', run.distances_command(), slot)
                values = _measured(run)
            append_records(self.options.csv, self._records(run, values))

    def _prepare(self, run: Run) -> None:
        """Draw the data of the seed once. The folder gets its name when it is complete."""
        if not run.study.prepare or run.data.is_dir():
            return
        while True:
            try:
                lock = lock_file(run.data.with_suffix('.lock'))
                break
            except Locked:
                if self._stopping.wait(POLL):
                    raise RunFailed('stopped') from None
        with lock:
            if run.data.is_dir():
                return
            part = run.data.with_suffix('.part')
            self._step(run, 'prepare', run.prepare_command(part), slot=0)
            part.rename(run.data)

    def _train(self, run: Run, lock: IO, slot: int) -> None:
        if run.checkpoint.is_file():
            return
        state = run.state()
        state.update(settings=run.settings, revisions=self._revisions(run))
        self._save_state(run, state)
        resume = (run.folder / 'last_checkpoint').is_file()
        # The training inherits the lock, in case this process is killed and it is not.
        start = time.monotonic()
        try:
            kilobytes = self._step(run, 'train', run.train_command(resume), slot, lock)
        finally:
            before = state.get('train_seconds', 0)
            state['train_seconds'] = before + time.monotonic() - start
            self._save_state(run, state)
        state['peak_memory_mib'] = max(state.get('peak_memory_mib', 0), kilobytes / 1024)
        self._save_state(run, state)
        if not run.checkpoint.is_file():
            raise RunFailed(f'the training ended without {run.checkpoint}')

    def _save_state(self, run: Run, state: dict) -> None:
        path = run.folder / 'run.json'
        dump(state, f'{path}.part', file_format='json', indent=2)
        os.replace(f'{path}.part', path)

    def _step(
        self, run: Run, step: str, command: list[str], slot: int, lock: IO | None = None
    ) -> int:
        """Run a command to its end.

        Returns:
            The peak of its resident memory, in KiB.
        """
        root = str(Path(__file__).resolve().parents[2])  # the mmgcnl that is running
        paths = [root, *filter(None, [os.environ.get('PYTHONPATH')])]
        environment = {
            **os.environ,
            **run.environment(),
            'PYTHON': sys.executable,
            'PYTHONPATH': os.pathsep.join(paths),
            'OMP_NUM_THREADS': str(self.options.threads),
            'PORT': _port(slot),
        }
        if self._gpus:
            environment['CUDA_VISIBLE_DEVICES'] = self._gpus[slot]
        run.folder.mkdir(parents=True, exist_ok=True)
        path = run.folder / f'{step}.log'
        if self._stopping.is_set():
            raise RunFailed('stopped')
        with open(path, 'a' if step == 'train' else 'w') as log:
            print(shlex.join(command), file=log, flush=True)
            process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                pass_fds=[lock.fileno()] if lock is not None else [],
            )
            self._processes.add(process)
            if self._stopping.is_set():  # stop() did not see this process
                process.terminate()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            self._processes.discard(process)
        if process.returncode:
            tail = path.read_text(errors='replace').strip().splitlines()[-1:]
            raise RunFailed(
                f'{step} ended with status {process.returncode}: '
                f'{tail[0] if tail else "no output"} ({path})'
            )
        return usage.ru_maxrss if platform.system() != 'Darwin' else usage.ru_maxrss // 1024

    def _revisions(self, run: Run) -> list[str]:
        """Revisions of the code that has trained the model, and of the code that runs."""
        return list(dict.fromkeys([*run.state().get('revisions', []), self._revision]))

    def _records(self, run: Run, values: dict[str, float]) -> list[Record]:
        found = provenance()
        common: dict[str, Any] = dict(
            study=run.study.name,
            row=run.row.name,
            seed=run.seed,
            revision='; '.join(self._revisions(run)),
            versions='; '.join(f'{n} {found[n]}' for n in _VERSIONS if found[n]),
            threads=self.options.threads,
            attention=run.attention,
            settings=run.settings,
        )
        return [
            # Metrics are float32: more digits have no meaning.
            Record(metric=name, value=float(f'{value:.7g}'), **common)
            for name, value in values.items()
        ]


def _measured(run: Run) -> dict[str, float]:
    """Read what training, testing and measuring have written into the folder of a run."""
    values: dict[str, float] = {}
    (latest,) = sorted((run.folder / 'test').glob('*/*.json'))[-1:] or [None]
    if latest is None:
        raise RunFailed(f'the test left no metrics in {run.folder / "test"}')
    for name, value in json.loads(latest.read_text()).items():
        if isinstance(value, (int, float)) and name not in ('time', 'data_time'):
            values[name] = float(value)
    distances = json.loads((run.folder / 'distances.json').read_text())
    # A fresh block adds zero, which has no direction and no distance.
    values.update((k, v) for k, v in distances.items() if v is not None)
    lines = run.log_lines()
    state = run.state()
    if torch.cuda.is_available():
        if lines:
            values['peak_memory_mib'] = max(line.get('memory', 0) for line in lines)
    elif 'peak_memory_mib' in state:
        values['peak_memory_mib'] = state['peak_memory_mib']
    if lines:
        seconds = statistics.median(line['time'] for line in lines)
        values['seconds_per_iteration'] = seconds
        values[LAST_METRIC] = seconds * lines[-1]['step']
    else:  # a training shorter than the interval of the logger: with its start
        values[LAST_METRIC] = state.get('train_seconds', math.nan)
    return values


def _ablations(run: Run) -> dict[str, float]:
    """Read what tools/analysis_tools/ablate_priors.py has written there."""
    report = json.loads((run.folder / 'ablation.json').read_text())
    blocks = {entry['block'] for entry in report['ablations']}
    values = {}
    for entry in report['ablations']:
        place = f'@{entry["block"]}' if len(blocks) > 1 else ''
        name = f'ablate/{entry["ablation"].replace(" ", "-")}{place}'
        values.update((f'{name}/{k}', v) for k, v in entry['metrics'].items())
    return values


def _port(slot: int) -> str:
    """Choose the port of the processes of a run: PORT and the following, or a free one."""
    if 'PORT' in os.environ:
        return str(int(os.environ['PORT']) + slot)
    with socket.socket() as free:
        free.bind(('', 0))
        return str(free.getsockname()[1])


def _gpu_groups(options: Execution) -> list[str]:
    """Return the GPUs of each job; empty on a machine without GPUs."""
    given = os.environ.get('CUDA_VISIBLE_DEVICES')
    names = (
        given.split(',') if given else [str(i) for i in range(torch.cuda.device_count())]
    )
    if not torch.cuda.is_available():
        return []
    if options.jobs * options.gpus > len(names):
        raise StudyError(
            f'--jobs {options.jobs} of --gpus {options.gpus} each need '
            f'{options.jobs * options.gpus} GPUs, and there are {len(names)}'
        )
    return [
        ','.join(names[i * options.gpus : (i + 1) * options.gpus])
        for i in range(options.jobs)
    ]


def lock_file(path: Path) -> IO:
    """Open and lock a file; closing it, and its copies in other processes, unlocks it.

    Raises:
        Locked: Another process has it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = open(path, 'a')  # noqa: SIM115  closed by the caller
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise Locked from None
    return file
