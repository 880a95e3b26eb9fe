"""Draw the curves of trainings: values of their logs over the iterations.

python tools/analysis_tools/plot_curves.py WORK_DIR... --keys loss aAcc --out curves.png
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmgcnl.analysis.curves import draw_curves


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'work_dirs',
        nargs='+',
        type=Path,
        metavar='WORK_DIR',
        help='folders of the trainings',
    )
    parser.add_argument(
        '--keys', nargs='+', default=['loss'], help='a plot for each (loss)'
    )
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('curves.png'),
        metavar='FILE',
        help='the picture (curves.png)',
    )
    args = parser.parse_args(argv)
    try:
        draw_curves(args.work_dirs, args.keys, args.out)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    print(f'drawn: {args.out}')


if __name__ == '__main__':
    main()
