"""The runs of a study: what each one executes, and which are still to do.

A run is one row with one seed. Its training resumes from its folder in the work dir; the
run is done when its results are in the CSV file. Each step runs the standard tool in a
process of its own, so it can also be started by hand.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmgcnl.utils.logs import read_log

from .records import read_records
from .spec import Study, StudyError, Variant, digest, training_length

#: Metric in the last line that a run appends to the CSV file. It marks the run as complete.
LAST_METRIC = 'train_seconds'
#: Metric in the last line of an ablation, which marks it as complete.
LAST_ABLATION = 'ablate_seconds'


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
    """

    root: Path
    work_dir: Path
    csv: Path
    jobs: int = 1
    gpus: int = 1
    images: int | None = None
    ablate: bool = False

    @property
    def threads(self) -> int:
        """Threads per process: OMP_NUM_THREADS, else the cores divided by the processes."""
        given = os.environ.get('OMP_NUM_THREADS', '')
        if given.isdigit() and int(given) > 0:
            return int(given)
        return max(1, (os.cpu_count() or 1) // (self.jobs * self.gpus))


@dataclass
class Run:
    """One row with one seed."""

    study: Study
    row: Variant
    seed: int
    options: Execution
    cfg: Config
    settings: str = field(init=False)

    def __post_init__(self) -> None:
        self.settings = digest(self.cfg)

    @property
    def name(self) -> str:
        """Row and seed, for messages."""
        return f'{self.row.name}, seed {self.seed}'

    @property
    def key(self) -> tuple[str, int]:
        """Row and seed, as the CSV file has them."""
        return self.row.name, self.seed

    @property
    def folder(self) -> Path:
        """Folder of its training, tests and measurements."""
        return self.options.work_dir / self.row.name / f'seed{self.seed}'

    @property
    def data(self) -> Path:
        """Folder of the data that the study draws for this seed."""
        return self.options.work_dir / 'data' / f'seed{self.seed}'

    @property
    def checkpoint(self) -> Path:
        """The checkpoint at the end of the training."""
        number, unit = training_length(self.cfg)
        return self.folder / f'{unit}_{number}.pth'

    @property
    def attention(self) -> str:
        """The implementation of the attention that is set for our blocks."""
        found = re.findall(r"'implementation': '(\w+)'", str(self.cfg.model.to_dict()))
        environment = {**os.environ, **self.environment()}
        return environment.get('MMGCNL_ATTENTION') or (found[0] if found else 'auto')

    def environment(self) -> dict[str, str]:
        """The environment variables that the study sets, for this seed."""
        return {
            key: _filled(value, self.seed, self.data)
            for key, value in self.study.environment.items()
        }

    def prepare_command(self, folder: Path) -> list[str]:
        """Return the command that draws the data into a folder."""
        words = [_filled(word, self.seed, folder) for word in self.study.prepare]
        return [sys.executable, str(self.options.root / words[0]), *words[1:]]

    def train_command(self, resume: bool = False) -> list[str]:
        """Return the command that trains, or resumes the training."""
        words = ['--work-dir', str(self.folder), *(['--resume'] if resume else [])]
        if self.options.gpus > 1:
            tool = ['bash', str(self.options.root / 'tools/dist_train.sh')]
            tool += [str(self.row.config), str(self.options.gpus)]
        else:
            tool = [sys.executable, str(self.options.root / 'tools/train.py')]
            tool += [str(self.row.config)]
        return [*tool, *words, *self._cfg_options()]

    def test_command(self) -> list[str]:
        """Return the command that tests the trained model."""
        words = [str(self.row.config), str(self.checkpoint)]
        if self.options.gpus > 1:
            tool = ['bash', str(self.options.root / 'tools/dist_test.sh')]
            words.append(str(self.options.gpus))
        else:
            tool = [sys.executable, str(self.options.root / 'tools/test.py')]
        work_dir = ['--work-dir', str(self.folder / 'test')]
        return [*tool, *words, *work_dir, *self._cfg_options()]

    def distances_command(self) -> list[str]:
        """Return the command that measures the cosine distances."""
        words = [str(self.row.config), str(self.checkpoint)]
        words += ['--json', str(self.folder / 'distances.json')]
        if self.options.images is not None:
            words += ['--num-images', str(self.options.images)]
        module = [sys.executable, '-m', 'mmgcnl.studies.distances']
        return [*module, *words, *self._cfg_options()]

    def ablate_command(self) -> list[str]:
        """Return the command that ablates the priors of the trained model."""
        tool = str(self.options.root / 'tools/analysis_tools/ablate_priors.py')
        words = [str(self.row.config), str(self.checkpoint)]
        words += ['--json', str(self.folder / 'ablation.json')]
        return [sys.executable, tool, *words, *self._cfg_options()]

    def _cfg_options(self) -> list[str]:
        return ['--cfg-options', *self.row.arguments(self.seed)]

    def printed(self) -> Iterator[str]:
        """Yield its commands, quoted for a shell."""
        env = {**self.environment(), 'OMP_NUM_THREADS': str(self.options.threads)}
        prefix = ' '.join(f'{key}={shlex.quote(value)}' for key, value in env.items())
        if self.study.prepare and not self.options.ablate:
            yield shlex.join(self.prepare_command(self.data))
        commands = [
            self.train_command(),
            self.test_command(),
            self.distances_command(),
        ]
        for command in [self.ablate_command()] if self.options.ablate else commands:
            yield f'{prefix} {shlex.join(command)}'

    def state(self) -> dict[str, Any]:
        """Return the contents of run.json in its folder; empty before the training."""
        try:
            return json.loads((self.folder / 'run.json').read_text())
        except FileNotFoundError:
            return {}

    def log_lines(self) -> list[dict]:
        """Return the lines of the training's log in order, each iteration once."""
        return [line for line in read_log(self.folder) if 'loss' in line]

    def progress(self) -> float:
        """Return the finished share of the training, 0 to 1, according to its log."""
        number, unit = training_length(self.cfg)
        lines = self.log_lines()
        if not lines:
            return 0.0
        last = lines[-1]
        done = last['step'] if unit == 'iter' else last.get('epoch', 1) - 1
        return min(1.0, done / number)


def plan(
    study: Study, rows: Sequence[Variant], seeds: Sequence[int], options: Execution
) -> tuple[list[Run], list[str]]:
    """Return the runs that are left, seed by seed, and messages about broken CSV lines.

    Raises:
        StudyError: The CSV file or a folder in the work dir holds results of
            settings that the study does not have now.
    """
    configs = {row.name: row.load() for row in rows}
    runs = [
        Run(study, row, seed, options, configs[row.name]) for seed in seeds for row in rows
    ]
    done, broken = completed(study, options.csv)
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
    if options.ablate:
        return _to_ablate(runs, options), broken
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


def other_batch_sizes(runs: Sequence[Run]) -> Iterator[str]:
    """Yield a message per config whose learning rate is for another number of processes."""
    for row, cfg in {run.row.name: run.cfg for run in runs}.items():
        base = (cfg.get('auto_scale_lr') or {}).get('base_batch_size')
        batch = (cfg.get('train_dataloader') or {}).get('batch_size')
        accumulated = (cfg.get('optim_wrapper') or {}).get('accumulative_counts', 1)
        if not base or not batch or cfg.auto_scale_lr.get('enable'):
            continue
        total = runs[0].options.gpus * batch * accumulated
        if total != base:
            gpus, rest = divmod(base, batch * accumulated)
            remedy = f'give --gpus {gpus}' if gpus and not rest else 'change its batch size'
            yield (
                f'{row}: the learning rate is for a batch of {base}, and --gpus '
                f'{runs[0].options.gpus} makes one of {total}: {remedy}'
            )


def _to_ablate(runs: Sequence[Run], options: Execution) -> list[Run]:
    """Return the trained runs with non-local blocks that were not ablated yet."""
    trained, _ = completed(runs[0].study, options.csv)
    with_blocks, _ = completed(runs[0].study, options.csv, 'cos_att')
    ablated, _ = completed(runs[0].study, options.csv, LAST_ABLATION)
    runs = [
        run
        for run in runs
        if run.key in trained and run.key in with_blocks and run.key not in ablated
    ]
    missing = [str(r.checkpoint) for r in runs if not r.checkpoint.is_file()]
    if missing:
        raise StudyError(
            f'no such checkpoint: {", ".join(missing)}; give the --work-dir of the '
            'training, or the --rows and --seeds of the models that still exist. To train '
            'a deleted model again, give `run` another --work-dir and --csv'
        )
    return runs


def completed(
    study: Study, csv: Path, metric: str = LAST_METRIC
) -> tuple[dict[tuple[str, int], set[str]], list[str]]:
    """Find the runs that have a metric in the CSV file, also of one of several blocks.

    Returns:
        The settings by row and seed, and a message for each broken line.
    """
    if not csv.exists():
        return {}, []
    records, broken = read_records(csv)
    found: dict[tuple[str, int], set[str]] = {}
    for record in records:
        if record.study == study.name and record.metric.split('@')[0] == metric:
            found.setdefault((record.row, record.seed), set()).add(record.settings)
    return found, broken


def _filled(text: str, seed: int, data: Path) -> str:
    return text.replace('{seed}', str(seed)).replace('{data}', str(data))
