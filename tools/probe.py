"""The probe: draw its scenes; show where the models of `make demo` attend."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import mmcv
import numpy as np
from mmengine.config import Config
from mmengine.runner import find_latest_checkpoint

from mmgcnl.analysis import Query, attention_at, draw_attention
from mmgcnl.apis import image_pipeline, init_model
from mmgcnl.datasets.probe import CELL, CRATES, make_probe
from mmgcnl.utils.cli import seed

CONFIGS = Path(__file__).resolve().parent.parent / 'configs/probe'


def draw_crates(work_dir: Path, seed: int, out: Path) -> None:
    """Draw where three crates of the first validation scene attend.

    Of a scene's crates, three at equal steps in reading order are chosen. For the plain
    block as for ours there is the mean of the heads.

    Args:
        work_dir: Has what the study `demo` has trained.
        seed: Of the scenes and the trainings.
        out: The picture.

    Raises:
        FileNotFoundError: There are no such models.
    """
    data = work_dir / f'data/seed{seed}'
    path = data / 'images/val/00000.png'
    image = mmcv.imread(path)
    labels = mmcv.imread(data / 'annotations/val/00000.png', 'unchanged')
    crates = np.argwhere(np.isin(labels[::CELL, ::CELL], CRATES))
    cells = [(x, y) for y, x in crates[:: max(1, len(crates) // 3)][:3]]
    points = [(x * CELL + CELL // 2, y * CELL + CELL // 2) for x, y in cells]
    maps = {}
    for name, label in (('nl', 'non-local'), ('gcnl', 'ours')):
        checkpoint = find_latest_checkpoint(str(work_dir / name / f'seed{seed}'))
        if checkpoint is None:
            raise FileNotFoundError(
                f'no checkpoint in {work_dir / name / f"seed{seed}"}; train it: python '
                f'tools/study.py run configs/studies/demo.yml --seeds {seed}'
            )
        cfg = Config.fromfile(CONFIGS / f'{name}_probe.py')
        model = init_model(cfg, checkpoint)
        found, _ = attention_at(model, image_pipeline(cfg), image, points)
        maps[f'{label}, mean of heads'] = found.mean(axis=1)
    queries = [
        Query(point, {name: found[i] for name, found in maps.items()})
        for i, point in enumerate(points)
    ]
    draw_attention(image[..., ::-1], queries, out)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest='command', required=True)
    text = 'write the scenes, for the configs in configs/probe'
    data = commands.add_parser('data', help=text, description=text)
    data.add_argument(
        '--out', type=Path, help='folder; default: work_dirs/probe/data/seed<SEED>'
    )
    data.add_argument('--seed', type=seed, default=0, help='seed of the scenes; default: 0')
    text = 'draw the attention of three crates, with the plain block and with ours'
    picture = commands.add_parser('picture', help=text, description=text)
    picture.add_argument(
        '--work-dir',
        type=Path,
        default=Path('work_dirs/probe'),
        help='work dir of the study configs/studies/demo.yml; default: %(default)s',
    )
    picture.add_argument(
        '--seed', type=seed, default=0, help='seed of the models; default: 0'
    )
    picture.add_argument(
        '--out', type=Path, help='default: attention_seed<SEED>.png in the work dir'
    )
    args = parser.parse_args(argv)
    if args.command == 'data':
        make_probe(
            args.out or Path(f'work_dirs/probe/data/seed{args.seed}'), seed=args.seed
        )
        return
    out = args.out or args.work_dir / f'attention_seed{args.seed}.png'
    try:
        draw_crates(args.work_dir, args.seed, out)
    except FileNotFoundError as error:
        parser.error(str(error))
    print(f'written: {out}')


if __name__ == '__main__':
    main()
