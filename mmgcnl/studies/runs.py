"""Train, test and measure the rows of a study with every seed.

A run is one row with one seed. Its folder in the work dir is what its training resumes
from; what says that a run is done is the CSV file. Each step is a process of its own and
the standard tool for it, so that it can also be started by hand.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import re
import shlex
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

import torch
from mmengine.config import Config
from mmengine.fileio import dump
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

import mmgcnl

from .records import Record, append_records, read_records
from .spec import Row, Study, StudyError, digest, length

_LIBRARIES = ('torch', 'numpy', 'mmengine', 'mmcv', 'mmseg', 'mmdet')
_POLL = 0.5  # seconds


@dataclass(frozen=True)
class Options:
    """How the runs of a study are carried out.

    Attributes:
        root: Folder with ``tools`` and ``configs``.
        work_dir: Gets a folder for each run, and the data that the study draws.
        csv: Results are appended to it.
        jobs: Runs at the same time.
        gpus: Processes of a training; above 1, tools/dist_train.sh starts them.
        images: Images for the cosine distances; None for the whole test split.
    """

    root: Path
    work_dir: Path
    csv: Path
    jobs: int = 1
    gpus: int = 1
    images: int | None = None

    @property
    def threads(self) -> int:
        """Of each process: OMP_NUM_THREADS, else the cores divided among them."""
        given = os.environ.get('OMP_NUM_THREADS', '')
        if given.isdigit() and int(given) > 0:
            return int(given)
        return max(1, (os.cpu_count() or 1) // (self.jobs * self.gpus))


@dataclass
class Run:
    """One row with one seed."""

    study: Study
    row: Row
    seed: int
    options: Options
    cfg: Config
    settings: str = field(init=False)

    def __post_init__(self) -> None:
        self.settings = digest(self.cfg)

    @property
    def name(self) -> str:
        return f'{self.row.name}, seed {self.seed}'

    @property
    def key(self) -> tuple[str, int]:
        return self.row.name, self.seed

    @property
    def folder(self) -> Path:
        return self.options.work_dir / self.row.name / f'seed{self.seed}'

    @property
    def data(self) -> Path:
        return self.options.work_dir / 'data' / f'seed{self.seed}'

    @property
    def checkpoint(self) -> Path:
        """What a finished training has saved."""
        number, unit = length(self.cfg)
        return self.folder / f'{unit}_{number}.pth'

    def environment(self) -> dict[str, str]:
        """What the study sets, with the seed's data in it."""
        return {
            key: _filled(value, self.seed, self.data)
            for key, value in self.study.environment.items()
        }

    def prepare_command(self, folder: Path) -> list[str]:
        words = [_filled(word, self.seed, folder) for word in self.study.prepare]
        return [sys.executable, str(self.options.root / words[0]), *words[1:]]

    def train_command(self, resume: bool = False) -> list[str]:
        words = ['--work-dir', str(self.folder), *(['--resume'] if resume else [])]
        if self.options.gpus > 1:
            tool = ['bash', str(self.options.root / 'tools/dist_train.sh')]
            tool += [str(self.row.config), str(self.options.gpus)]
        else:
            tool = [sys.executable, str(self.options.root / 'tools/train.py')]
            tool += [str(self.row.config)]
        return [*tool, *words, *self._cfg_options()]

    def test_command(self) -> list[str]:
        words = [str(self.row.config), str(self.checkpoint)]
        if self.options.gpus > 1:
            tool = ['bash', str(self.options.root / 'tools/dist_test.sh')]
            words.append(str(self.options.gpus))
        else:
            tool = [sys.executable, str(self.options.root / 'tools/test.py')]
        work_dir = ['--work-dir', str(self.folder / 'test')]
        return [*tool, *words, *work_dir, *self._cfg_options()]

    def distances_command(self) -> list[str]:
        words = [str(self.row.config), str(self.checkpoint)]
        words += ['--json', str(self.folder / 'distances.json')]
        if self.options.images is not None:
            words += ['--num-images', str(self.options.images)]
        module = [sys.executable, '-m', 'mmgcnl.studies.distances']
        return [*module, *words, *self._cfg_options()]

    def _cfg_options(self) -> list[str]:
        return ['--cfg-options', *self.row.arguments(self.seed)]

    def printed(self) -> Iterator[str]:
        """Its commands, as a shell takes them."""
        env = {'OMP_NUM_THREADS': str(self.options.threads), **self.environment()}
        prefix = ' '.join(f'{key}={shlex.quote(value)}' for key, value in env.items())
        if self.study.prepare:
            yield shlex.join(self.prepare_command(self.data))
        for command in (
            self.train_command(),
            self.test_command(),
            self.distances_command(),
        ):
            yield f'{prefix} {shlex.join(command)}'

    def state(self) -> dict[str, Any]:
        """What is known of the folder's training; empty if there was none."""
        try:
            return json.loads((self.folder / 'run.json').read_text())
        except FileNotFoundError:
            return {}

    def log_lines(self) -> list[dict]:
        """The training's log, in order, each iteration once."""
        lines: dict[int, dict] = {}
        for path in sorted(self.folder.glob('*/vis_data/scalars.json')):
            for text in path.read_text().split('\n')[:-1]:  # the last may be half written
                line = json.loads(text)
                if 'loss' in line:
                    lines[line['step']] = line
        return [lines[step] for step in sorted(lines)]

    def progress(self) -> float:
        """Share of the training that is done, 0 to 1, by its log."""
        number, unit = length(self.cfg)
        lines = self.log_lines()
        if not lines:
            return 0.0
        last = lines[-1]
        done = last['step'] if unit == 'iter' else last.get('epoch', 1) - 1
        return min(1.0, done / number)


def plan(
    study: Study, rows: Sequence[Row], seeds: Sequence[int], options: Options
) -> tuple[list[Run], list[str]]:
    """The runs that are to do, seed by seed, and messages about broken lines of the CSV.

    Raises:
        StudyError: The CSV file or a folder in the work dir holds results of other
            settings than the study's.
    """
    runs = [
        Run(study, row, seed, options, row.load(seed)) for seed in seeds for row in rows
    ]
    done, broken = _done(study, options.csv)
    conflicts = [
        f'{run.name} ({run.settings} now, {", ".join(sorted(done[run.key]))} there)'
        for run in runs
        if run.key in done and run.settings not in done[run.key]
    ]
    if conflicts:
        raise StudyError(
            f'{options.csv} holds results of other settings than the study has now, for '
            f'{"; ".join(conflicts)}: move the lines away, or give another --csv and '
            '--work-dir'
        )
    runs = [run for run in runs if run.key not in done]
    conflicts = [
        str(run.folder)
        for run in runs
        if run.state().get('settings', run.settings) != run.settings
    ]
    if conflicts:
        raise StudyError(
            f'trained with other settings than the study has now: {", ".join(conflicts)}; '
            'move these folders away, or give another --work-dir'
        )
    return runs, broken


def _done(study: Study, csv: Path) -> tuple[dict[tuple[str, int], set[str]], list[str]]:
    """Row and seed of the runs that are done, with their settings."""
    if not csv.exists():
        return {}, []
    records, broken = read_records(csv)
    found: dict[tuple[str, int], set[str]] = {}
    for record in records:
        # A run's last line: with it, all of them are there.
        if record.study == study.name and record.metric == LAST_METRIC:
            found.setdefault((record.row, record.seed), set()).add(record.settings)
    return found, broken


#: The metric of a run's last line in the CSV file.
LAST_METRIC = 'train_seconds'


class _Failed(Exception):
    """A step of a run ended with an error."""


class _Locked(Exception):
    """Another process works on the run."""


class Scheduler:
    """Carries out runs, several at a time, and goes on when one fails.

    Args:
        runs: As :func:`plan` returns them.
        options: As they were planned with.
        console: Where progress goes.
    """

    def __init__(
        self, runs: Sequence[Run], options: Options, console: Console | None = None
    ) -> None:
        self.runs = list(runs)
        self.options = options
        self.console = console or Console()
        self.failed: dict[str, str] = {}
        self._stopping = threading.Event()
        self._processes: set[subprocess.Popen] = set()
        self._finished: set[tuple[str, int]] = set()
        self._revision = revision(options.root)
        self._gpus = _gpu_groups(options)

    def run(self) -> dict[str, str]:
        """Carry them out.

        Returns:
            What went wrong, by the name of the run.

        Raises:
            KeyboardInterrupt: After the processes have been stopped.
        """
        before = signal.getsignal(signal.SIGTERM)
        in_main = threading.current_thread() is threading.main_thread()
        if in_main:  # a plain kill shall not leave trainings behind
            signal.signal(signal.SIGTERM, _interrupt)
        try:
            with ThreadPoolExecutor(self.options.jobs) as pool, self._progress() as show:
                try:
                    self._loop(pool, show)
                except BaseException:
                    self._stop()
                    raise
        finally:
            if in_main:
                signal.signal(signal.SIGTERM, before)
        return self.failed

    def _loop(self, pool: ThreadPoolExecutor, show: Callable[[list[Run]], None]) -> None:
        waiting = deque(self.runs)
        slots = deque(range(self.options.jobs))
        working: dict[Future, tuple[Run, int]] = {}
        while waiting or working:
            # A run that another process works on goes to the end of the queue.
            for _ in range(len(waiting)):
                if not slots:
                    break
                run = waiting.popleft()
                try:
                    lock = _lock(run.folder / 'lock')
                except _Locked:
                    waiting.append(run)
                    continue
                slot = slots.popleft()
                working[pool.submit(self._carry_out, run, lock, slot)] = run, slot
            show([run for run, _ in working.values()])
            time.sleep(_POLL)
            for future in [future for future in working if future.done()]:
                run, slot = working.pop(future)
                slots.append(slot)
                self._finished.add(run.key)
                self._report(run, future)

    def _report(self, run: Run, future: Future) -> None:
        error = future.exception()
        left = len(self.runs) - len(self._finished)
        rest = f'{left} of {len(self.runs)} runs left'
        if error is None:
            self.console.print(f'done: {run.name}; {rest}', highlight=False)
        else:
            text = str(error) if isinstance(error, _Failed) else repr(error)
            self.failed[run.name] = text
            self.console.print(f'failed: {run.name}; {rest}', highlight=False)

    @contextmanager
    def _progress(self) -> Iterator[Callable[[list[Run]], None]]:
        columns = (
            TextColumn('{task.description}'),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        # The remaining time comes from the last half hour.
        with Progress(
            *columns, console=self.console, speed_estimate_period=1800
        ) as progress:
            # Before anything runs: a resumed training must not count as speed.
            before = {run.key: run.progress() for run in self.runs}
            total = sum(1 - share for share in before.values())
            task = progress.add_task('', total=total or 1)

            def show(working: list[Run]) -> None:
                done = sum(1 - before[key] for key in self._finished)
                done += sum(run.progress() - before[run.key] for run in working)
                names = '; '.join(run.name for run in working) or 'waiting'
                progress.update(task, completed=done, description=names)

            yield show

    def _stop(self) -> None:
        self._stopping.set()
        for process in list(self._processes):
            process.terminate()

    def _carry_out(self, run: Run, lock: IO, slot: int) -> None:
        with lock:
            # Another process may have finished it before this one had the lock.
            if run.key in _done(run.study, self.options.csv)[0]:
                return
            self._prepare(run)
            self._train(run, lock, slot)
            self._step(run, 'test', run.test_command(), slot)
            self._step(run, 'distances', run.distances_command(), slot)
            append_records(self.options.csv, self._records(run))

    def _prepare(self, run: Run) -> None:
        """Draw the seed's data, once: it appears under its name when it is complete."""
        if not run.study.prepare or run.data.is_dir():
            return
        while True:
            try:
                lock = _lock(run.data.with_suffix('.lock'))
                break
            except _Locked:
                if self._stopping.wait(_POLL):
                    raise _Failed('stopped') from None
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
        revisions = [*state.get('revisions', []), self._revision]
        state.update(settings=run.settings, revisions=list(dict.fromkeys(revisions)))
        self._save_state(run, state)
        resume = (run.folder / 'last_checkpoint').is_file()
        # The training keeps the lock when this process is killed and it goes on.
        kilobytes = self._step(run, 'train', run.train_command(resume), slot, lock)
        state['peak_memory_mib'] = max(state.get('peak_memory_mib', 0), kilobytes / 1024)
        self._save_state(run, state)
        if not run.checkpoint.is_file():
            raise _Failed(f'the training ended without {run.checkpoint}')

    def _save_state(self, run: Run, state: dict) -> None:
        path = run.folder / 'run.json'
        dump(state, f'{path}.part', file_format='json', indent=2)
        os.replace(f'{path}.part', path)

    def _step(
        self, run: Run, step: str, command: list[str], slot: int, lock: IO | None = None
    ) -> int:
        """Wait for a process.

        Returns:
            The most memory that it had at a time (resident set), in KiB.
        """
        root = str(Path(mmgcnl.__file__).parents[1])  # this very mmgcnl
        paths = [root, *filter(None, [os.environ.get('PYTHONPATH')])]
        environment = {
            **os.environ,
            **run.environment(),
            'PYTHON': sys.executable,
            'PYTHONPATH': os.pathsep.join(paths),
            'OMP_NUM_THREADS': str(self.options.threads),
            'PORT': str(int(os.environ.get('PORT', 29500)) + slot),
        }
        if self._gpus:
            environment['CUDA_VISIBLE_DEVICES'] = self._gpus[slot]
        run.folder.mkdir(parents=True, exist_ok=True)
        path = run.folder / f'{step}.log'
        if self._stopping.is_set():
            raise _Failed('stopped')
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
            if self._stopping.is_set():  # it was started just after the others were stopped
                process.terminate()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            self._processes.discard(process)
        if process.returncode:
            tail = path.read_text(errors='replace').strip().splitlines()[-1:]
            raise _Failed(
                f'{step} ended with status {process.returncode}: '
                f'{tail[0] if tail else "no output"} ({path})'
            )
        return usage.ru_maxrss if platform.system() != 'Darwin' else usage.ru_maxrss // 1024

    def _records(self, run: Run) -> list[Record]:
        values: dict[str, float] = {}
        (latest,) = sorted((run.folder / 'test').glob('*/*.json'))[-1:] or [None]
        if latest is None:
            raise _Failed(f'the test left no metrics in {run.folder / "test"}')
        for name, value in json.loads(latest.read_text()).items():
            if isinstance(value, (int, float)) and name not in ('time', 'data_time'):
                values[name] = float(value)
        distances = json.loads((run.folder / 'distances.json').read_text())
        # What a fresh block adds is zero, and has no direction.
        values.update((k, v) for k, v in distances.items() if v is not None)
        lines = run.log_lines()
        state = run.state()
        if torch.cuda.is_available():
            values['peak_memory_mib'] = max(line.get('memory', 0) for line in lines)
        elif 'peak_memory_mib' in state:
            values['peak_memory_mib'] = state['peak_memory_mib']
        seconds = statistics.median(line['time'] for line in lines)
        values['seconds_per_iteration'] = seconds
        values[LAST_METRIC] = seconds * lines[-1]['step']
        common: dict[str, Any] = dict(
            study=run.study.name,
            row=run.row.name,
            seed=run.seed,
            revision='; '.join(state['revisions']),
            versions=versions(),
            threads=self.options.threads,
            attention=_implementation(run.cfg),
            settings=run.settings,
        )
        return [
            # As many digits as float32 has: the metrics come from it.
            Record(metric=name, value=float(f'{value:.7g}'), **common)
            for name, value in values.items()
        ]


def versions() -> str:
    """Of Python and the libraries, as they are named in the CSV file."""
    found = [f'python {platform.python_version()}']
    for name in _LIBRARIES:
        module = sys.modules.get(name)
        number = getattr(module, '__version__', None)
        if number is None:
            try:
                number = version(name)
            except PackageNotFoundError:
                continue
        found.append(f'{name} {number}')
    return '; '.join(found)


def revision(root: Path) -> str:
    """Of the code: the git revision, with ``+changes`` where files differ from it."""

    def git(*words: str) -> subprocess.CompletedProcess:
        return subprocess.run(['git', '-C', root, *words], capture_output=True, text=True)

    try:
        head = git('rev-parse', '--short=10', 'HEAD')
    except OSError:
        return f'v{mmgcnl.__version__}'
    if head.returncode:
        return f'v{mmgcnl.__version__}'
    changed = git('status', '--porcelain', '--', 'mmgcnl', 'tools', 'configs').stdout
    return head.stdout.strip() + ('+changes' if changed.strip() else '')


def _implementation(cfg: Config) -> str:
    """How the attention of our blocks is asked to be computed."""
    asked = os.environ.get('MMGCNL_ATTENTION')
    found = re.findall(r"'implementation': '(\w+)'", str(cfg.model.to_dict()))
    return asked or (found[0] if found else 'auto')


def _gpu_groups(options: Options) -> list[str]:
    """The GPUs of each job; empty where there are none."""
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


def _lock(path: Path) -> IO:
    """An open file that is locked until it and its copies in other processes are closed.

    Raises:
        _Locked: Another process has it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = open(path, 'a')  # noqa: SIM115  closed by the caller
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise _Locked from None
    return file


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def _filled(text: str, seed: int, data: Path) -> str:
    return text.replace('{seed}', str(seed)).replace('{data}', str(data))
