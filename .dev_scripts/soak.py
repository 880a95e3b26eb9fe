"""Train for long with a restart every 100 iterations, and see whether anything grows.

    nice -n 19 python .dev_scripts/soak.py --iterations 2000

One of two processes is killed every 100 iterations, and torchrun starts both again. Memory,
file descriptors, threads and processes are counted every two seconds, for torchrun and for
all processes below it. The table has the largest figures between two restarts. The exit
status is 1 if those of the last restarts exceed those of the first, or if a process is left
in the end.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

import psutil
from mmengine.config import Config

from mmgcnl.datasets.probe import make_probe

ROOT = Path(__file__).parents[1]
COLUMNS = ('MiB', 'files', 'threads', 'processes')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--iterations', type=int, default=2000)
    parser.add_argument('--every', type=int, default=100, help='iterations per restart')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/soak'))
    args = parser.parse_args()

    data = args.out / 'data'
    if not data.is_dir():
        make_probe(data, num_train=64, num_val=8)
    restarts = (args.iterations - 1) // args.every
    faults = [
        (attempt, attempt % 2, args.every * (attempt + 1), 'SIGKILL')
        for attempt in range(restarts)
    ]
    cfg = Config.fromfile(ROOT / 'configs/probe/gcnl_probe.py')
    cfg.custom_imports = dict(imports=['mmgcnl', 'tests.faults'])
    cfg.custom_hooks = [dict(type='Faults')]
    cfg.train_cfg.update(max_iters=args.iterations, val_interval=args.every // 2)
    cfg.default_hooks.checkpoint.update(interval=args.every // 4, max_keep_ckpts=2)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.update(batch_size=4, num_workers=2, persistent_workers=True)
        loader.dataset.data_root = str(data.resolve())
    config = args.out / 'config.py'
    cfg.dump(config)
    env = dict(os.environ, FAULTS=json.dumps(faults), MAX_RESTARTS=str(restarts))
    env.update(PYTHON=sys.executable, PYTHONPATH=str(ROOT), CUDA_VISIBLE_DEVICES='')
    run = args.out / 'run'
    shutil.rmtree(run, ignore_errors=True)  # or it would only be resumed
    with open(args.out / 'log.txt', 'w') as log:
        process = subprocess.Popen(
            ['bash', ROOT / 'tools/dist_train.sh', config, '2', '--work-dir', run],
            env=env,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        launcher, training, left = watch(process, args.out / 'log.txt')
    print_tables(launcher, training)
    grown = growth(launcher) + growth(training)
    print(f'status {process.returncode}; grown: {", ".join(grown) or "nothing"}; ', end='')
    print(f'processes left: {len(left)}')
    sys.exit(bool(process.returncode or grown or left))


Figures = dict[int, list[int]]


def watch(process: subprocess.Popen, log: Path) -> tuple[Figures, Figures, list]:
    """Count until the process ends.

    Returns:
        The largest figures after each number of restarts, of torchrun and of all processes
        below it; and the processes that have outlived it.
    """
    launcher: Figures = defaultdict(lambda: [0] * len(COLUMNS))
    training: Figures = defaultdict(lambda: [0] * len(COLUMNS))
    torchrun, shown, below = psutil.Process(process.pid), -1, []
    while process.poll() is None:
        restarts = log.read_text(errors='replace').count('failed (exitcode')
        with suppress(psutil.NoSuchProcess):
            below = torchrun.children(recursive=True)
            for figures, processes in ((launcher, [torchrun]), (training, below)):
                counted = [sum(values) for values in zip(*map(count, processes))]
                figures[restarts] = list(map(max, figures[restarts], counted or [0] * 4))
        if restarts != shown:
            shown = restarts
            print(f'[{time.strftime("%H:%M:%S")}] {restarts} restarts', flush=True)
        time.sleep(2)
    _, left = psutil.wait_procs(below, timeout=10)
    return dict(launcher), dict(training), left


def count(process: psutil.Process) -> tuple[int, ...]:
    """Count what COLUMNS name, for one process; its memory is what only it has."""
    with suppress(psutil.Error, FileNotFoundError), process.oneshot():
        own = process.memory_full_info().uss // 2**20
        return own, process.num_fds(), process.num_threads(), 1
    return (0,) * len(COLUMNS)  # it has ended


def growth(figures: Figures, slack: float = 1.05) -> list[str]:
    """Name the columns that are larger in the last three restarts than in the first."""
    legs = [figures[restarts] for restarts in sorted(figures)]
    first, last = legs[:3], legs[-3:]
    return [
        name
        for name, before, after in zip(COLUMNS, zip(*first), zip(*last))
        if min(after) > max(before) * slack
    ]


def print_tables(launcher: Figures, training: Figures) -> None:
    print(f'{"restarts":>8}  {"torchrun: " + ", ".join(COLUMNS):<45}all others')
    for restarts in sorted(launcher):
        one, other = (', '.join(map(str, f[restarts])) for f in (launcher, training))
        print(f'{restarts:>8}  {one:<45}{other}')


if __name__ == '__main__':
    main()
