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
from collections.abc import Callable, Iterator, Sequence
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
    """How the runs of a study are carried out.

    Attributes:
        root: Folder with ``tools`` and ``configs``.
        work_dir: Gets a folder for each run, and the data that the study draws.
        csv: Results are appended to it.
        jobs: Runs at the same time.
        gpus: Processes of a training; above 1, tools/dist_train.sh starts them.
        images: Number of images for the cosine distances; None for the whole test split.
        ablate: Ablate the priors of trained models instead of training.
        cluster: Executor of submitit: 'local', 'slurm', or 'debug', which is this process.
        minutes: Time limit of a job of Slurm, after which it is queued again.
        sbatch: Further options of sbatch.
    """

    root: Path
    work_dir: Path
    csv: Path
    jobs: int = 1
    gpus: int = 1
    images: int | None = None
    ablate: bool = False
    cluster: str = 'local'
    minutes: int = 24 * 60
    sbatch: dict[str, Any] = field(default_factory=dict)

    @property
    def threads(self) -> int:
        """Threads per process: OMP_NUM_THREADS, else a share of the cores; with Slurm 1."""
        given = os.environ.get('OMP_NUM_THREADS', '')
        if given.isdigit() and int(given) > 0:
            return int(given)
        cores = 1 if self.cluster == 'slurm' else os.cpu_count() or 1
        return max(1, cores // (self.jobs * self.gpus))


@dataclass
class Run:
    """One row with one seed.

    Attributes:
        name: Row and seed, for messages.
        key: Row and seed, as the CSV file has them.
        settings: Digest of its config.
        folder: Gets its training, tests and measurements.
        data: Folder of the data that the study draws for this seed.
        checkpoint: The one at the end of the training.
    """

    study: Study
    row: Variant
    seed: int
    execution: Execution
    cfg: Config

    def __post_init__(self) -> None:
        self.name = f'{self.row.name}, seed {self.seed}'
        self.key = self.row.name, self.seed
        self.settings = digest(self.cfg)
        self.folder = self.execution.work_dir / self.row.name / f'seed{self.seed}'
        self.data = self.execution.work_dir / 'data' / f'seed{self.seed}'
        self.checkpoint = self.folder / '{1}_{0}.pth'.format(*training_length(self.cfg))

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
        folder, gpus, tools = (
            self.folder,
            self.execution.gpus,
            self.execution.root / 'tools',
        )
        config, model = [self.row.config], [self.row.config, self.checkpoint]
        if self.execution.ablate:
            tool = [sys.executable, tools / 'analysis_tools/ablate_priors.py']
            steps = dict(ablate=[*tool, *model, '--json', folder / 'ablation.json'])
        else:
            train, test = (
                [sys.executable, tools / 'train.py'],
                [sys.executable, tools / 'test.py'],
            )
            if gpus > 1:
                train = ['bash', tools / 'dist_train.sh']
                test = ['bash', tools / 'dist_test.sh']
                config, model = [*config, gpus], [*model, gpus]
            images = self.execution.images
            steps = dict(
                train=[*train, *config, '--work-dir', folder, *['--resume'] * resume],
                test=[*test, *model, '--work-dir', folder / 'test'],
                distances=[
                    *(sys.executable, '-m', 'mmgcnl.studies.distances', *model[:2]),
                    *('--json', folder / 'distances.json'),
                    *([] if images is None else ['--num-images', images]),
                ],
            )
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
        number, unit = training_length(self.cfg)
        last = (self.log_lines() or [dict(step=0)])[-1]
        return min(
            1.0, (last['step'] if unit == 'iter' else last.get('epoch', 1) - 1) / number
        )


def plan(
    study: Study, rows: Sequence[Variant], seeds: Sequence[int], execution: Execution
) -> list[Run]:
    """Return the runs that are left, seed by seed.

    Raises:
        StudyError: A config cannot be read; the CSV file or a folder in the work dir holds
            results of settings that the study does not have now; or the checkpoint of a
            model to ablate is missing.
    """
    configs = {row.name: row.load() for row in rows}
    runs = [
        Run(study, row, seed, execution, configs[row.name])
        for seed in seeds
        for row in rows
    ]
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
        base, enabled = map(
            (run.cfg.get('auto_scale_lr') or {}).get, ('base_batch_size', 'enable')
        )
        batch = (run.cfg.get('train_dataloader') or {}).get('batch_size', 0)
        batch *= (run.cfg.get('optim_wrapper') or {}).get('accumulative_counts', 1)
        total = run.execution.gpus * batch
        if base and batch and not enabled and total != base:
            gpus, rest = divmod(base, batch)
            remedy = f'give --gpus {gpus}' if gpus and not rest else 'change its batch size'
            yield (
                f'{run.row.name}: the learning rate is for a batch of {base}, and --gpus '
                f'{run.execution.gpus} makes one of {total}: {remedy}'
            )


class RunFailed(Exception):
    """A step of a run ended with an error."""


class Locked(Exception):
    """Another process works on the run."""


@contextmanager
def locked(path: Path, wait: bool = False) -> Iterator[IO]:
    """Lock a file inside; a process that inherits the file keeps it locked.

    Raises:
        Locked: Another process has it, and ``wait`` is False.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, 'a') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise Locked(LOCKED) from None
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
                    values = self._carry_out(lock)
                    append_records(self.run.execution.csv, self.records(values))
            return ''
        except (Locked, RunFailed) as error:
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

    def _carry_out(self, lock: IO) -> dict[str, float]:
        start = time.monotonic()
        if self.run.execution.ablate:
            self._execute('ablate', self.run.commands()['ablate'])
            return {**_ablations(self.run), LAST_ABLATION: time.monotonic() - start}
        self._prepare()
        self._train(lock)
        for step in ('test', 'distances'):
            self._execute(step, self.run.commands()[step])
        return measured(self.run, bool(self._environment().get('CUDA_VISIBLE_DEVICES')))

    def _prepare(self) -> None:
        """Draw the data of the seed once. The folder gets its name when it is complete."""
        data = self.run.data
        if not self.run.study.prepare or data.is_dir():
            return
        with locked(data.with_suffix('.lock'), wait=True):
            if not data.is_dir():
                part = data.with_suffix('.part')
                self._execute('prepare', self.run.prepare_command(part))
                part.rename(data)

    def _train(self, lock: IO) -> None:
        run, start = self.run, time.monotonic()
        if run.checkpoint.is_file():
            return
        state = dict(run.state(), settings=run.settings, revisions=self._revisions())
        run.save_state(state)
        resume = (run.folder / 'last_checkpoint').is_file()
        before = state.get('train_seconds', 0), state.get('peak_memory_mib', 0)
        try:
            # The training inherits the lock, in case this process is killed and it is not.
            kilobytes = self._execute('train', run.commands(resume)['train'], lock)
            state['peak_memory_mib'] = max(before[1], kilobytes / 1024)
        finally:
            state['train_seconds'] = before[0] + time.monotonic() - start
            run.save_state(state)
        if not run.checkpoint.is_file():
            raise RunFailed(f'the training ended without {run.checkpoint}')

    def _environment(self) -> dict[str, str]:
        gpus = {} if self.gpus is None else dict(CUDA_VISIBLE_DEVICES=self.gpus)
        with socket.socket() as free:
            free.bind(('', 0))
            port = free.getsockname()[1]
        return {
            **os.environ,
            **self.run.environment(),
            **gpus,
            'PYTHON': sys.executable,
            'PYTHONPATH': _python_path(),
            'OMP_NUM_THREADS': str(self.run.execution.threads),
            'PORT': str(port),
        }

    def _execute(self, step: str, command: list[str], lock: IO | None = None) -> int:
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
            tail = path.read_text(errors='replace').strip().splitlines()[-1:]
            reason = tail[0] if tail else 'no output'
            raise RunFailed(f'{step} ended with status {code}: {reason} ({path})')
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
        attention = self._environment().get('MMGCNL_ATTENTION') or (*blocks, 'auto')[0]
        common = dict(
            revision='; '.join(self._revisions()),
            versions='; '.join(f'{n} {found[n]}' for n in _VERSIONS if found[n]),
            threads=run.execution.threads,
            attention=attention,
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
    values = {
        name: float(value)
        for name, value in json.loads(tests[-1].read_text()).items()
        if isinstance(value, (int, float)) and name not in ('time', 'data_time')
    }
    distances = json.loads((run.folder / 'distances.json').read_text())
    # A fresh block adds zero, which has no direction and no distance.
    values.update((k, v) for k, v in distances.items() if v is not None)
    lines, state = run.log_lines(), run.state()
    if on_gpu:
        state['peak_memory_mib'] = max((ln.get('memory', 0) for ln in lines), default=None)
    if state.get('peak_memory_mib') is not None:
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
    report = json.loads((run.folder / 'ablation.json').read_text())['ablations']
    several = len({entry['block'] for entry in report}) > 1
    values = {}
    for entry in report:
        place = f'@{entry["block"]}' if several else ''
        name = f'ablate/{entry["ablation"].replace(" ", "-")}{place}'
        values.update((f'{name}/{k}', v) for k, v in entry['metrics'].items())
    return values


def carry_out(
    runs: Sequence[Run], execution: Execution, console: Console | None = None
) -> dict[str, str]:
    """Carry out runs as jobs, and go on when one fails.

    Jobs on this machine are stopped when this process is. Those of Slurm stay in its queue,
    where another call finds them.

    Args:
        runs: From :func:`plan`.
        execution: What they were planned with.
        console: Shows the progress; default: standard output.

    Returns:
        The error of each failed run, by the name of the run.

    Raises:
        StudyError: There are too few GPUs for the jobs, or no Slurm.
        KeyboardInterrupt: Also for SIGTERM.
    """
    console = console or Console()
    slots = _gpu_groups(execution)
    waiting, working, outcomes = list(runs), {}, {}
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with _progress(runs, console) as show:
            while waiting or working:
                # A run that another process works on goes to the end of the queue.
                for _ in range(len(waiting)):
                    if not slots:
                        break
                    run = waiting.pop(0)
                    try:
                        job = _start(run, slots[0])
                    except Locked:
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
        jobs = [job for _, job, _ in working.values()] * (execution.cluster == 'local')
        while jobs := [job for job in jobs if not job.done()]:
            for job in jobs:  # a training saves a checkpoint
                os.kill(int(job.job_id), signal.SIGTERM)
            time.sleep(1)
        signal.signal(signal.SIGTERM, before)
    return {name: reason for name, reason in outcomes.items() if reason}


def _start(run: Run, gpus: str | None) -> submitit.Job | None:
    """Submit a run, or find its job in the queue of Slurm; None if the run is done.

    Raises:
        Locked: Another process works on it.
    """
    execution, jobs = run.execution, run.folder / 'jobs'
    with locked(run.folder / 'lock'):
        if run.is_done():
            return None
        submitted = jobs / 'slurm'  # the folder and number of the last one
        if execution.cluster == 'slurm' and submitted.is_file():
            folder, number = submitted.read_text().split()
            job = submitit.SlurmJob(jobs / folder, number)
            if not job.done(force_check=True):
                return job
        # Of its own: other jobs on this machine can have had the same number.
        folder = time.strftime('%Y%m%d_%H%M%S')
        try:
            executor = submitit.AutoExecutor(
                jobs / folder, execution.cluster, slurm_max_num_timeout=1000
            )
        except RuntimeError as error:
            raise StudyError(f'--cluster {execution.cluster}: {error}') from None
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
        if execution.cluster == 'slurm':
            submitted.write_text(f'{folder} {job.job_id}')
        return job


def _outcome(job: submitit.Job) -> str:
    """Return what :class:`Job` has returned, or why its process has ended without that."""
    if job.exception() is None:
        return job.result()
    tail = (job.stderr() or '').strip().splitlines()[-1:]
    reason = tail[0] if tail else 'no output'
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
    # Estimate the remaining time from the speed of the last half hour, without earlier
    # progress. Testing and measuring take about a twentieth of the time of a training.
    columns = *Progress.get_default_columns(), TimeElapsedColumn()
    with Progress(*columns, console=console, speed_estimate_period=1800) as progress:
        before = {run.name: run.progress() for run in runs}
        total = sum(1.05 - share for share in before.values())
        task = progress.add_task('', total=total)

        def show(working: Sequence[Run], ended: Sequence[str]) -> None:
            done = sum(1.05 - before[name] for name in ended)
            done += sum(run.progress() - before[run.name] for run in working)
            names = first_names(run.name for run in working)
            if not names and len(ended) < len(runs):
                names = 'waiting for other processes'
            progress.update(task, completed=done, description=names)

        yield show
