"""Draw curves of trainings: a value of their logs over the iterations.

python tools/analysis_tools/plot_curves.py WORK_DIR... --keys loss aAcc --out curves.png
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt


def read_curve(work_dir: Path, key: str) -> tuple[list[int], list[float]]:
    """Steps and values of ``key`` in the latest log of ``work_dir``.

    Raises:
        ValueError: There is no log, or ``key`` is not in it.
    """
    logs = sorted(work_dir.glob('*/vis_data/scalars.json'))
    if not logs:
        raise ValueError(f'{work_dir} is no work dir of a training: no scalars.json')
    lines = [json.loads(line) for line in logs[-1].read_text().splitlines()]
    points = [(line['step'], line[key]) for line in lines if key in line]
    if not points:
        keys = sorted({key for line in lines for key in line})
        raise ValueError(f'{logs[-1]} has no {key!r}; it has {", ".join(keys)}')
    steps, values = zip(*points)
    return list(steps), list(values)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('work_dirs', nargs='+', type=Path, metavar='WORK_DIR')
    parser.add_argument('--keys', nargs='+', default=['loss'], help='one plot each (loss)')
    parser.add_argument('--out', type=Path, default=Path('curves.png'))
    args = parser.parse_args(argv)
    size = (4.5 * len(args.keys), 3)
    figure, plots = plt.subplots(
        1, len(args.keys), squeeze=False, layout='constrained', figsize=size
    )
    try:
        for plot, key in zip(plots[0], args.keys):
            for work_dir in args.work_dirs:
                plot.plot(*read_curve(work_dir, key), marker='.', label=work_dir.name)
            plot.set(xlabel='iteration', ylabel=key)
            plot.grid(alpha=0.3)
    except ValueError as error:
        parser.error(str(error))
    plots[0][0].legend()
    figure.savefig(args.out)
    print(f'drawn: {args.out}')


if __name__ == '__main__':
    main()
