"""Run a study, every row with every seed, and report it.

python tools/study.py run configs/studies/probe.yml --jobs 2
python tools/study.py report configs/studies/probe.yml

`run` appends the results of every finished run to the study's CSV file. A run that is in
it is not repeated; a training that was interrupted is resumed.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mmgcnl.studies import CsvError, Options, Scheduler, StudyError, plan, read_study

ROOT = Path(__file__).resolve().parents[1]


def run(args: argparse.Namespace) -> int:
    study = read_study(args.study, ROOT)
    rows = study.select(args.table, args.rows)
    work_dir = (args.work_dir or Path('work_dirs/studies') / study.name).resolve()
    options = Options(
        root=ROOT,
        work_dir=work_dir,
        csv=args.csv or study.csv or work_dir / 'results.csv',
        jobs=args.jobs,
        gpus=args.gpus,
        images=args.num_images,
    )
    runs, broken = plan(study, rows, args.seeds or study.seeds, options)
    for message in broken:
        print(f'skipped: {message}', file=sys.stderr)
    if args.dry_run:
        for run in runs:
            print(f'# {run.name}', *run.printed(), sep='\n')
        return 0
    total = len(rows) * len(args.seeds or study.seeds)
    print(f'{total - len(runs)} of {total} runs are done; results in {options.csv}')
    failed = Scheduler(runs, options).run()
    for name, reason in failed.items():
        print(f'failed: {name}: {reason}', file=sys.stderr)
    if failed:
        print('the same command tries them again', file=sys.stderr)
    return int(bool(failed))


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f'{text}: give at least 1')
    return number


def _seed(text: str) -> int:
    number = int(text)
    if not 0 <= number < 2**31:
        raise argparse.ArgumentTypeError(f'{text}: give a number from 0 to 2147483647')
    return number


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest='command', required=True)
    command = commands.add_parser('run', help='train, test and measure')
    command.add_argument('study', type=Path, help='YAML file')
    command.add_argument('--table', help='only the rows of this table')
    command.add_argument('--rows', nargs='+', metavar='ROW', help='only these rows')
    command.add_argument(
        '--seeds', nargs='+', type=_seed, metavar='SEED', help="instead of the study's"
    )
    command.add_argument(
        '--jobs', type=_positive, default=1, help='runs at the same time; default: 1'
    )
    command.add_argument(
        '--gpus', type=_positive, default=1, help='processes of each run; default: 1'
    )
    command.add_argument(
        '--num-images',
        type=_positive,
        metavar='N',
        help='measure cosine distances on the first N test images; default: all',
    )
    command.add_argument('--work-dir', type=Path, help='default: work_dirs/studies/NAME')
    command.add_argument(
        '--csv', type=Path, help="default: the study's, else WORK_DIR/results.csv"
    )
    command.add_argument('--dry-run', action='store_true', help='only print the commands')
    args = parser.parse_args(argv)
    try:
        sys.exit(run(args))
    except (CsvError, StudyError, OSError) as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        print('\ninterrupted: the same command goes on', file=sys.stderr)
        sys.exit(130)


if __name__ == '__main__':
    main()
