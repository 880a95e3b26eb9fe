"""Carry out the runs of a study as jobs of submitit, on this machine or under Slurm.

A run is one row with one seed. It trains, tests and measures, each by the standard tool in
a process of its own, which can also be started by hand. Its training resumes from its
folder in the work dir; the run is done when its results are in the CSV file.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import re
import shlex
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import submitit
import torch
from mmengine.config import Config
from mmengine.fileio import dump
from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn
from submitit.helpers import Checkpointable, DelayedSubmission, environment_variables

from mmgcnl.utils.logs import read_log
from mmgcnl.utils.provenance import git_revision, provenance
from mmgcnl.utils.text import first_names
from mmgcnl.version import __version__

from .results import LAST_ABLATION, LAST_METRIC, Record, append_records, measured_runs
from .study import Study, StudyError, Variant, digest, training_length

#: Seconds between two looks at the jobs.
POLL = dict(local=0.5, debug=0.0, slurm=10.0)
#: Seconds that Slurm gives a training to save a checkpoint.
GRACE = 120
LOCKED = 'another process works on it'
_VERSIONS = ('python', 'torch', 'mmengine', 'mmcv', 'mmseg', 'mmdet')


@dataclass(frozen=True)
class Execution:
    """How the runs of a study are carried out."""

    root: Path  # has the folders tools and configs
    work_dir: Path  # gets a folder for each run, and the data that the study draws
    csv: Path  # results are appended to it
    jobs: int = 1  # at the same time
    gpus: int = 1  # processes of a training; above 1, tools/dist_train.sh starts them
    images: int | None = None  # for the cosine distances; None: the whole test split
    ablate: bool = False  # the priors of trained models, instead of training
    cluster: str = 'local'  # where jobs run: 'local', 'slurm', or 'debug', in this process
    minutes: int = 24 * 60  # time limit of a job of Slurm, which is then queued again
    sbatch: dict[str, Any] = field(default_factory=dict)  # further options of sbatch

    @property
    def threads(self) -> int:
        """Threads per process: OMP_NUM_THREADS, else a share of the cores; with Slurm 1."""
        given = os.environ.get('OMP_NUM_THREADS', '')
        if given.isdigit() and int(given) > 0:
            return int(given)
        cores = 1 if self.cluster == 'slurm' else os.cpu_count() or 1
        return max(1, cores // (self.jobs * self.gpus))


@dataclass(eq=False)
class Run:
    """One row with one seed."""

    study: Study
    row: Variant
    seed: int
    execution: Execution
    cfg: Config

    def __post_init__(self) -> None:
        self.name = f'{self.row.name}, seed {self.seed}'
        self.key = self.row.name, self.seed  # as the CSV file has them
        self.settings = digest(self.cfg)
        self.folder = self.execution.work_dir / self.row.name / f'seed{self.seed}'
        self.data = self.execution.work_dir / 'data' / f'seed{self.seed}'  # if it is drawn
        self.length, self.unit = training_length(self.cfg)
        self.checkpoint = self.folder / f'{self.unit}_{self.length}.pth'

    def environment(self) -> dict[str, str]:
        """The environment variables that the study sets, for this seed."""
        return {k: self._fill(v, self.data) for k, v in self.study.environment.items()}

    def _fill(self, text: str, data: Path) -> str:
        return text.replace('{seed}', str(self.seed)).replace('{data}', str(data))

    def prepare_command(self, folder: Path) -> list[str]:
        """Return the command that draws the data into a folder."""
        tool, *words = (self._fill(word, folder) for word in self.study.prepare)
        return [sys.executable, str(self.execution.root / tool), *words]

    def commands(self, resume: bool = False) -> dict[str, list[str]]:
        """Return the commands of its steps in order; ``resume`` goes on with a training."""
        execution, folder = self.execution, self.folder
        python, tools = sys.executable, execution.root / 'tools'
        config, model = [self.row.config], [self.row.config, self.checkpoint]
        steps: dict[str, list[Any]]
        if execution.ablate:
            tool = tools / 'analysis_tools/ablate_priors.py'
            steps = dict(ablate=[python, tool, *model, '--json', folder / 'ablation.json'])
        else:
            train, test = [python, tools / 'train.py'], [python, tools / 'test.py']
            if execution.gpus > 1:
                train, test = (['bash', tools / f'dist_{x}.sh'] for x in ('train', 'test'))
            number = [execution.gpus] * (execution.gpus > 1)
            measure = [python, '-m', 'mmgcnl.studies.distances', *model]
            measure += ['--json', folder / 'distances.json']
            if execution.images is not None:
                measure += ['--num-images', execution.images]
            steps = dict(
                train=[*train, *config, *number, '--work-dir', folder],
                test=[*test, *model, *number, '--work-dir', folder / 'test'],
                distances=measure,
            )
            steps['train'] += ['--resume'] * resume
        options = ['--cfg-options', *self.row.arguments(self.seed)]
        return {name: [*map(str, words), *options] for name, words in steps.items()}

    def printed(self) -> Iterator[str]:
        """Yield its commands, quoted for a shell."""
        env = {**self.environment(), 'OMP_NUM_THREADS': str(self.execution.threads)}
        prefix = ' '.join(f'{key}={shlex.quote(value)}' for key, value in env.items())
        if self.study.prepare and not self.execution.ablate:
            yield shlex.join(self.prepare_command(self.data))
        for command in self.commands().values():
            yield f'{prefix} {shlex.join(command)}'

    def state(self) -> dict[str, Any]:
        """Return what earlier attempts have left in run.json of its folder."""
        path = self.folder / 'run.json'
        return json.loads(path.read_text()) if path.is_file() else {}

    def save_state(self, state: dict[str, Any]) -> None:
        """Write run.json."""
        path = self.folder / 'run.json'
        dump(state, f'{path}.part', file_format='json', indent=2)
        os.replace(f'{path}.part', path)

    def is_done(self) -> bool:
        """Whether its results, or those of its ablation, are in the CSV file."""
        last = LAST_ABLATION if self.execution.ablate else LAST_METRIC
        return self.key in measured_runs(self.study, self.execution.csv, last)

    def log_lines(self) -> list[dict]:
        """Return the lines of the training's log in order, each iteration once."""
        return [line for line in read_log(self.folder) if 'loss' in line]

    def progress(self) -> float:
        """Return the finished share of the training, 0 to 1, according to its log."""
        last = [{}, *self.log_lines()][-1]
        done = last.get('step', 0) if self.unit == 'iter' else last.get('epoch', 1) - 1
        return min(1.0, done / self.length)


def plan(
    study: Study, rows: Sequence[Variant], seeds: Sequence[int], execution: Execution
) -> list[Run]:
    """Return the runs that are left, seed by seed.

    Raises:
        StudyError: A config cannot be read; the CSV file or a folder in the work dir holds
            results of settings that the study does not have now; or the checkpoint of a
            model to ablate is missing.
    """
    loaded = [(row, row.load()) for row in rows]
    runs = [Run(study, row, s, execution, cfg) for s in seeds for row, cfg in loaded]
    done = measured_runs(study, execution.csv, LAST_METRIC)
    conflicts = []
    for run in runs:
        there = done.get(run.key) or {run.state().get('settings', run.settings)}
        if run.settings not in there:
            conflicts.append(f'{run.folder} ({run.settings} now, {", ".join(there)} there)')
    if conflicts:
        raise StudyError(
            f'trained with other settings than the study has now: {"; ".join(conflicts)}; '
            f'move their folders, or their lines in {execution.csv}, away, or give another '
            '--work-dir and --csv'
        )
    if not execution.ablate:
        return [run for run in runs if run.key not in done]
    blocks = measured_runs(study, execution.csv, 'cos_att')
    runs = [r for r in runs if r.key in done and r.key in blocks and not r.is_done()]
    missing = [str(run.checkpoint) for run in runs if not run.checkpoint.is_file()]
    if missing:
        raise StudyError(
            f'no such checkpoint: {", ".join(missing)}; give the --work-dir of the '
            'training, or the --rows and --seeds of the models that still exist. To train '
            'a deleted model again, give `run` another --work-dir and --csv'
        )
    return runs


def other_batch_sizes(runs: Sequence[Run]) -> Iterator[str]:
    """Yield a message per config whose learning rate is for another number of processes."""
    for run in {run.row.name: run for run in runs}.values():
        scale = run.cfg.get('auto_scale_lr') or {}
        base = 0 if scale.get('enable') else scale.get('base_batch_size')
        batch = (run.cfg.get('train_dataloader') or {}).get('batch_size', 0)
        batch *= (run.cfg.get('optim_wrapper') or {}).get('accumulative_counts', 1)
        total = run.execution.gpus * batch
        if base and total not in (0, base):
            gpus, rest = divmod(base, batch)
            remedy = f'give --gpus {gpus}' if gpus and not rest else 'change its batch size'
            yield (
                f'{run.row.name}: the learning rate is for a batch of {base}, and --gpus '
                f'{run.execution.gpus} makes one of {total}: {remedy}'
            )


class RunFailed(Exception):
    """A step of a run ended with an error, or another process works on the run."""


@contextmanager
def locked(path: Path, wait: bool = False) -> Iterator[IO]:
    """Lock a file inside; a process that inherits the file keeps it locked.

    Raises:
        RunFailed: Another process has it, and ``wait`` is False.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, 'a') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise RunFailed(LOCKED) from None
        yield file


class Job(Checkpointable):
    """Carries out one run, in the process that submitit starts for it.

    Args:
        run: The run.
        gpus: Its GPUs, as in CUDA_VISIBLE_DEVICES; None leaves that as it is.
    """

    def __init__(self, run: Run, gpus: str | None = None) -> None:
        self.run = run
        self.gpus = gpus
        self._process: subprocess.Popen | None = None
        self._terminated = False

    def __call__(self) -> str:
        """Do the steps that are left.

        Returns:
            '' when the results are in the CSV file, else why they are not.
        """
        before = signal.signal(signal.SIGTERM, _interrupt_once)
        try:
            with locked(self.run.folder / 'lock') as lock:
                if not self.run.is_done():  # by another process, before this one started
                    append_records(self.run.execution.csv, self.records(self.measure(lock)))
            return ''
        except RunFailed as error:
            return str(error)
        except KeyboardInterrupt:
            if self.run.execution.cluster == 'debug':
                raise
            while self.run.execution.cluster == 'slurm':
                # It ends this process, and knows whether to queue the job again.
                signal.pause()
            return 'stopped'
        finally:
            signal.signal(signal.SIGTERM, before)

    def checkpoint(self) -> DelayedSubmission:
        """Stop, with a checkpoint: submitit queues the job again."""
        self._end_process()
        return DelayedSubmission(type(self)(self.run, self.gpus))

    def measure(self, lock: IO) -> dict[str, float]:
        """Train, test and measure, or ablate; return the metrics."""
        run, start = self.run, time.monotonic()
        if run.execution.ablate:
            self.execute('ablate', run.commands()['ablate'])
            return {**_ablations(run), LAST_ABLATION: time.monotonic() - start}
        if run.study.prepare:
            with locked(run.data.with_suffix('.lock'), wait=True):
                if not run.data.is_dir():  # it gets this name when it is complete
                    part = run.data.with_suffix('.part')
                    self.execute('prepare', run.prepare_command(part))
                    part.rename(run.data)
        if not run.checkpoint.is_file():
            self._train(lock)
        for step in ('test', 'distances'):
            self.execute(step, run.commands()[step])
        return measured(run, bool(self._environment().get('CUDA_VISIBLE_DEVICES')))

    def _train(self, lock: IO) -> None:
        run, start = self.run, time.monotonic()
        state = dict(run.state(), settings=run.settings, revisions=self._revisions())
        run.save_state(state)
        seconds, peak = (state.get(key, 0) for key in ('train_seconds', 'peak_memory_mib'))
        resume = (run.folder / 'last_checkpoint').is_file()
        try:
            # The training inherits the lock, in case this process is killed and it is not.
            kilobytes = self.execute('train', run.commands(resume)['train'], lock)
            state['peak_memory_mib'] = max(peak, kilobytes / 1024)
        finally:
            state['train_seconds'] = seconds + time.monotonic() - start
            run.save_state(state)
        if not run.checkpoint.is_file():
            raise RunFailed(f'the training ended without {run.checkpoint}')

    def _environment(self) -> dict[str, str]:
        with socket.socket() as free:
            free.bind(('', 0))
            port = free.getsockname()[1]
        return {
            **os.environ,
            **self.run.environment(),
            **({} if self.gpus is None else dict(CUDA_VISIBLE_DEVICES=self.gpus)),
            'PYTHON': sys.executable,
            'PYTHONPATH': _python_path(),
            'OMP_NUM_THREADS': str(self.run.execution.threads),
            'PORT': str(port),
        }

    def execute(self, step: str, command: list[str], lock: IO | None = None) -> int:
        """Run a command to its end.

        Returns:
            The peak of its resident memory, in KiB.
        """
        path = self.run.folder / f'{step}.log'
        with open(path, 'a' if step == 'train' else 'w') as log:
            print(shlex.join(command), file=log, flush=True)
            # Slurm sends signals to all processes of a job. This one is for us.
            with _blocked(signal.SIGUSR2):
                self._process = subprocess.Popen(
                    command,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=self._environment(),
                    pass_fds=[lock.fileno()] if lock is not None else [],
                )
            try:
                _, status, usage = os.wait4(self._process.pid, 0)
            except BaseException:
                self._end_process(self.run.execution.cluster != 'slurm')
                raise
        code = self._process.returncode = os.waitstatus_to_exitcode(status)
        if code:
            (*_, last) = path.read_text(errors='replace').strip().splitlines()
            raise RunFailed(f'{step} ended with status {code}: {last} ({path})')
        return usage.ru_maxrss // (1024 if sys.platform == 'darwin' else 1)

    def _end_process(self, terminate: bool = True) -> None:
        """Terminate the step, once, and wait for it: a training saves a checkpoint."""
        if self._process is None or self._process.returncode is not None:
            return
        if terminate and not self._terminated:
            self._terminated = True
            self._process.terminate()
        # Not Popen.wait(), which blocks when a signal handler calls it a second time.
        with suppress(ChildProcessError):  # it was waited for
            os.waitpid(self._process.pid, 0)

    def _revisions(self) -> list[str]:
        """Revisions of the code that has trained the model, and of the code that runs."""
        now = git_revision() or f'v{__version__}'
        return list(dict.fromkeys([*self.run.state().get('revisions', []), now]))

    def records(self, values: dict[str, float]) -> list[Record]:
        """Return the lines of the CSV file for what was measured."""
        run, found = self.run, provenance()
        blocks = re.findall(r"'implementation': '(\w+)'", str(run.cfg.model.to_dict()))
        common: dict[str, Any] = dict(
            revision='; '.join(self._revisions()),
            versions='; '.join(f'{n} {found[n]}' for n in _VERSIONS if found[n]),
            threads=run.execution.threads,
            attention=self._environment().get('MMGCNL_ATTENTION') or (*blocks, 'auto')[0],
            settings=run.settings,
        )
        return [
            # Metrics are float32: more digits have no meaning.
            Record(run.study.name, *run.key, name, float(f'{value:.7g}'), **common)
            for name, value in values.items()
        ]


def _python_path() -> str:
    """Begin the path with the mmgcnl that is running."""
    root = str(Path(__file__).resolve().parents[2])
    return os.pathsep.join(filter(None, (root, os.environ.get('PYTHONPATH'))))


@contextmanager
def _blocked(number: signal.Signals) -> Iterator[None]:
    """Block a signal for processes that are started inside, and delay it for this one."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [number])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])


def _interrupt_once(*_: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def measured(run: Run, on_gpu: bool) -> dict[str, float]:
    """Read what training, testing and measuring have written into the folder of a run."""
    tests = sorted((run.folder / 'test').glob('*/*.json'))
    if not tests:
        raise RunFailed(f'the test left no metrics in {run.folder / "test"}')
    found = json.loads(tests[-1].read_text())
    found |= json.loads((run.folder / 'distances.json').read_text())
    # Some are None: a fresh block adds zero, which has no direction and no distance.
    values = {
        name: float(value)
        for name, value in found.items()
        if isinstance(value, (int, float)) and name not in ('time', 'data_time')
    }
    lines, state = run.log_lines(), run.state()
    peak = state.get('peak_memory_mib')
    if on_gpu:
        peak = max((line.get('memory', 0) for line in lines), default=None)
    if peak is not None:
        values['peak_memory_mib'] = peak
    # A training shorter than the interval of the logger counts with its start.
    total = state.get('train_seconds', math.nan)
    if lines:
        seconds = statistics.median(line['time'] for line in lines)
        values['seconds_per_iteration'] = seconds
        total = seconds * lines[-1]['step']
    return {**values, LAST_METRIC: total}


def _ablations(run: Run) -> dict[str, float]:
    """Read what tools/analysis_tools/ablate_priors.py has written there."""
    report = json.loads((run.folder / 'ablation.json').read_text())['ablations']
    several = len({entry['block'] for entry in report}) > 1
    values: dict[str, float] = {}
    for entry in report:
        name = f'ablate/{entry["ablation"].replace(" ", "-")}'
        name += f'@{entry["block"]}' if several else ''
        values.update((f'{name}/{k}', v) for k, v in entry['metrics'].items())
    return values


def carry_out(runs: Sequence[Run], execution: Execution) -> dict[str, str]:
    """Carry out runs as jobs, and go on when one fails.

    Jobs on this machine are stopped when this process is. Those of Slurm stay in its queue,
    where another call finds them.

    Args:
        runs: From :func:`plan`.
        execution: What they were planned with.

    Returns:
        The error of each failed run, by the name of the run.

    Raises:
        StudyError: There are too few GPUs for the jobs, or Slurm refuses them.
        KeyboardInterrupt: Also for SIGTERM.
    """
    console = Console()
    slots = _gpu_groups(execution)
    waiting = list(runs)
    working: dict[str, tuple[Run, submitit.Job, str | None]] = {}
    outcomes: dict[str, str] = {}  # '' when the results are there
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with _progress(runs, console) as show:
            while waiting or working:
                # A run that another process works on goes to the end of the queue.
                for run in waiting[:]:
                    if not slots:
                        break
                    waiting.remove(run)
                    try:
                        job = _start(run, slots[0])
                    except RunFailed:
                        waiting.append(run)
                        continue
                    if job is None:
                        outcomes[run.name] = ''
                    else:
                        working[run.name] = run, job, slots.pop(0)
                show([run for run, *_ in working.values()], outcomes)
                time.sleep(POLL[execution.cluster])
                for run, job, gpus in list(working.values()):
                    if not job.done():
                        continue
                    del working[run.name]
                    slots.append(gpus)
                    reason = _outcome(job)
                    if reason == LOCKED:
                        waiting.append(run)
                        continue
                    outcomes[run.name] = reason
                    left = f'{len(runs) - len(outcomes)} of {len(runs)} runs left'
                    word = 'failed' if reason else 'done'
                    console.print(f'{word}: {run.name}; {left}', highlight=False)
            show([], outcomes)
    finally:
        jobs = [job for _, job, _ in working.values() if execution.cluster == 'local']
        while jobs := [job for job in jobs if not job.done()]:
            for job in jobs:  # a training saves a checkpoint
                os.kill(int(job.job_id), signal.SIGTERM)
            time.sleep(1)
        signal.signal(signal.SIGTERM, before)
    return {name: reason for name, reason in outcomes.items() if reason}


def _start(run: Run, gpus: str | None) -> submitit.Job | None:
    """Submit a run, or find its job in the queue of Slurm; None if the run is done.

    Raises:
        RunFailed: Another process works on it.
        StudyError: It cannot be submitted.
    """
    execution, jobs = run.execution, run.folder / 'jobs'
    with locked(run.folder / 'lock'):
        if run.is_done():
            return None
        submitted = jobs / 'slurm'  # the folder and number of the last one
        if execution.cluster == 'slurm' and submitted.is_file():
            folder, number = submitted.read_text().split()
            job: submitit.Job = submitit.SlurmJob(jobs / folder, number)
            if not job.done(force_check=True):
                return job
        # Of its own: other jobs on this machine can have had the same number.
        folder = time.strftime('%Y%m%d_%H%M%S')
        try:
            executor = submitit.AutoExecutor(
                jobs / folder, execution.cluster, slurm_max_num_timeout=1000
            )
            executor.update_parameters(
                name=run.study.name,
                timeout_min=10**7,
                slurm_timeout_min=execution.minutes,
                slurm_gpus_per_node=execution.gpus,
                slurm_cpus_per_task=5 * execution.gpus,
                slurm_signal_delay_s=GRACE,
                slurm_additional_parameters={'requeue': True, **execution.sbatch},
            )
            # Ctrl-C is for this process, which terminates its jobs in turn.
            with _blocked(signal.SIGINT), environment_variables(PYTHONPATH=_python_path()):
                job = executor.submit(Job(run, gpus))
        except RuntimeError as error:
            raise StudyError(f'--cluster {execution.cluster}: {error}') from None
        if execution.cluster == 'slurm':
            submitted.write_text(f'{folder} {job.job_id}')
        return job


def _outcome(job: submitit.Job) -> str:
    """Return what :class:`Job` has returned, or why its process has ended without that."""
    if job.exception() is None:
        return job.result()
    reason = ((job.stderr() or '').strip().splitlines() or ['no output'])[-1]
    return f'its job {job.job_id} ended without a result: {reason} ({job.paths.stderr})'


def _gpu_groups(execution: Execution) -> list[str | None]:
    """Return the GPUs of each job; None on a machine without GPUs, and for Slurm to say."""
    jobs, gpus = execution.jobs, execution.gpus
    if execution.cluster == 'slurm' or not torch.cuda.is_available():
        return [None] * jobs
    given = os.environ.get('CUDA_VISIBLE_DEVICES')
    names = given.split(',') if given else [*map(str, range(torch.cuda.device_count()))]
    if jobs * gpus > len(names):
        raise StudyError(
            f'--jobs {jobs} of --gpus {gpus} each need {jobs * gpus} GPUs, and there are '
            f'{len(names)}'
        )
    return [','.join(names[i * gpus : (i + 1) * gpus]) for i in range(jobs)]


@contextmanager
def _progress(runs: Sequence[Run], console: Console) -> Iterator[Callable[..., None]]:
    """Yield a function that shows how far some runs are, and which have ended."""
    columns = *Progress.get_default_columns(), TimeElapsedColumn()
    # Estimate the remaining time from the speed of the last half hour. Testing and
    # measuring take about a twentieth of a run.
    with Progress(*columns, console=console, speed_estimate_period=1800) as progress:
        shares = {run.name: 0.95 * run.progress() for run in runs}
        done: Any = sum(shares.values())  # rich's type is int, but it takes a float
        task = progress.add_task('', total=len(runs), completed=done)

        def show(working: Sequence[Run], ended: Mapping[str, str]) -> None:
            shares.update({run.name: 0.95 * run.progress() for run in working})
            shares.update(dict.fromkeys(ended, 1.0))
            names = first_names(run.name for run in working)
            if not names and len(ended) < len(runs):
                names = 'waiting for other processes'
            progress.update(task, completed=sum(shares.values(), 0.0), description=names)

        yield show
