"""Make the probe's scenes, train the block with and without its priors, and compare."""

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import mmcv
import numpy as np
from mmengine.config import Config
from mmengine.fileio import dump
from mmengine.utils import ProgressBar
from prettytable import PrettyTable

from mmgcnl.analysis import (
    DistanceRecorder,
    Query,
    attention_at,
    draw_attention,
    find_blocks,
)
from mmgcnl.apis import image_pipeline
from mmgcnl.datasets.probe import CELL, CRATES, make_probe
from mmgcnl.engine import Runner

ROOT = Path(__file__).resolve().parent.parent
# From nothing to everything, as the rows of the table.
ROWS = {
    'fcn': 'FCN',
    'nl': '+ non-local',
    'nl-context': '+ context only',
    'nl-position': '+ position only',
    'gcnl': '+ ours (both)',
}


def train(rows: list[str], out: Path, seed: int) -> None:
    """Train the rows' configs, two at a time, with one progress bar over all."""
    env = dict(os.environ, OMP_NUM_THREADS=str(max(1, (os.cpu_count() or 1) // 2)))
    for row in rows:  # what an earlier run left would pass for this one's
        (out / row / 'last_checkpoint').unlink(missing_ok=True)
        for scalars in (out / row).glob('*/vis_data/scalars.json'):
            scalars.unlink()
    waiting = list(rows)
    running: dict[str, subprocess.Popen] = {}
    total = sum(config(row, out).train_cfg.max_iters for row in rows)
    print(f'training {len(rows)} models; logs in {out}/*/stdout.log', flush=True)
    bar, done = ProgressBar(total), 0
    try:
        while waiting or running:
            while waiting and len(running) < 2:
                row = waiting.pop(0)
                running[row] = _start(row, out, seed, env)
            time.sleep(1)
            for row, process in list(running.items()):
                if process.poll() is None:
                    continue
                if process.returncode:
                    log = out / row / 'stdout.log'
                    tail = '\n'.join(log.read_text().splitlines()[-15:])
                    sys.exit(f'\n{tail}\ntraining {row} failed; all it said is in {log}')
                del running[row]
            now = sum(_iterations(out / row) for row in rows)
            if now > done:
                bar.update(now - done)
                done = now
    finally:
        for process in running.values():
            process.terminate()
    print()


def _start(row: str, out: Path, seed: int, env: dict[str, str]) -> subprocess.Popen:
    work_dir = out / row
    work_dir.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(ROOT / 'tools/train.py'), _config_path(row)]
    command += ['--work-dir', str(work_dir), '--cfg-options']
    command += [f'randomness.seed={seed}']
    command += [
        f'{split}_dataloader.dataset.data_root={out}/data' for split in ('train', 'val')
    ]
    with open(work_dir / 'stdout.log', 'w') as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=env)


def _iterations(work_dir: Path) -> int:
    steps = [0]
    for scalars in work_dir.glob('*/vis_data/scalars.json'):
        lines = scalars.read_text().split('\n')[:-1]  # the last may be half written
        steps += [json.loads(line)['step'] for line in lines]
    return max(steps)


def _config_path(row: str) -> str:
    return str(ROOT / 'configs/probe' / f'{row}_probe.py')


def config(row: str, out: Path) -> Config:
    cfg = Config.fromfile(_config_path(row))
    cfg.work_dir = str(out / row)
    cfg.log_level = 'ERROR'
    cfg.visualizer.name = row  # mmengine keeps one of each name
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.data_root = str(out / 'data')
    return cfg


def evaluate(row: str, out: Path, seed: int) -> tuple[dict[str, float], Runner]:
    """Metrics and cosine distances of a trained row, and the runner that holds it.

    The distances at iteration 0 stand beside those of the trained model: how a block is
    initialised sets them as much as training does.
    """
    start = {} if row == 'fcn' else measure_start(row, out, seed)
    cfg = config(row, out)
    cfg.load_from = (out / row / 'last_checkpoint').read_text().strip()
    runner = Runner.from_cfg(cfg)
    if row == 'fcn':
        return runner.test(), runner
    with DistanceRecorder(find_blocks(runner.model)) as recorder:
        metrics = runner.test()
    (block,) = recorder.blocks
    return {**metrics, **start, **recorder.mean(block)}, runner


def measure_start(row: str, out: Path, seed: int) -> dict[str, float]:
    """Cosine distances of the model as it is initialised."""
    cfg = config(row, out)
    cfg.randomness = dict(seed=seed)
    cfg.visualizer.name = f'{row}_start'
    runner = Runner.from_cfg(cfg)
    runner.model.init_weights()
    with DistanceRecorder(find_blocks(runner.model)) as recorder:
        runner.test()
    (block,) = recorder.blocks
    distances = recorder.mean(block)
    del distances['output']  # a fresh block adds nothing
    return {f'{kind} at iteration 0': value for kind, value in distances.items()}


def demo(rows: list[str], out: Path, seed: int) -> None:
    start = time.time()
    make_probe(out / 'data')
    print()
    train(rows, out, seed)
    print('evaluating', flush=True)
    warnings.filterwarnings('ignore', module='mmseg')
    results, runners = {}, {}
    for row in rows:
        results[row], runners[row] = evaluate(row, out, seed)
    dump(results, out / 'results.json', indent=2)

    columns = {
        'mIoU': 'mIoU',
        'pixAcc': 'aAcc',
        'side': 'probe/side',
        'lamp': 'probe/lamp',
        'cos input': 'input',
        '(start)': 'input at iteration 0',
        'cos output': 'output',
        'cos att': 'attention',
        '(start) ': 'attention at iteration 0',
    }
    table = PrettyTable(['model', *columns])
    table.align = 'r'
    table.align['model'] = 'l'
    for row, result in results.items():
        cells = [
            f'{result[k]:.{3 if "cos" in c or "start" in c else 1}f}'
            if k in result
            else '-'
            for c, k in columns.items()
        ]
        table.add_row([ROWS[row], *cells])
    print(table)
    print('side, lamp: crates and barrels told right, in percent; chance is 50')
    print('cos: mean cosine distance between positions, (start): at iteration 0')
    print(f'results  {out}/results.json\nmodels   {out}/*/iter_*.pth')

    names = [row for row in ('nl', 'gcnl') if row in rows]
    if names:
        path = str(out / 'data/images/val/00000.png')
        image = mmcv.imread(path)
        labels = mmcv.imread(path.replace('images', 'annotations'), 'unchanged')
        crates = np.argwhere(np.isin(labels[::CELL, ::CELL], CRATES))
        cells = [(x, y) for y, x in crates[:: max(1, len(crates) // 3)][:3]]
        points = [(x * CELL + CELL // 2, y * CELL + CELL // 2) for x, y in cells]
        maps = {}
        for row in names:
            runner = runners[row]
            found, _ = attention_at(
                runner.model.eval(), image_pipeline(runner.cfg), image, points
            )
            if row == 'nl':
                maps['non-local, mean of heads'] = found.mean(axis=1)
            else:
                for head in range(found.shape[1]):
                    maps[f'ours, head {head + 1}'] = found[:, head]
        queries = [
            Query(point, {name: found[i] for name, found in maps.items()})
            for i, point in enumerate(points)
        ]
        draw_attention(image[..., ::-1], queries, out / 'attention.png')
        print(f'picture  {out}/attention.png')
    print(f'took     {time.time() - start:.0f} s')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest='command', required=True)
    for name, text in (
        ('data', 'only write the scenes, for the configs in configs/probe'),
        ('demo', 'write the scenes, train, evaluate, and show a table and a picture'),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument(
            '--out', type=Path, default=Path('work_dirs/probe'), help='default: %(default)s'
        )
        what = 'scenes' if name == 'data' else 'training'
        command.add_argument(
            '--seed', type=int, default=0, help=f'of the {what}; default: 0'
        )
    command.add_argument(
        '--rows', nargs='+', choices=ROWS, default=list(ROWS), help='default: all'
    )
    args = parser.parse_args()
    if args.command == 'data':
        make_probe(args.out / 'data', seed=args.seed)
    else:
        demo(args.rows, args.out.resolve(), args.seed)


if __name__ == '__main__':
    main()
