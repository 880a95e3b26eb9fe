"""Run a study, every row with every seed, and report studies.

python tools/study.py run configs/studies/probe.yml --jobs 2
python tools/study.py run STUDY.yml --cluster slurm --gpus 8 --partition P
python tools/study.py report configs/studies/probe.yml --out report.md

`run` appends the results of every finished run to the study's CSV file. A run that is in
it is not repeated; a training that was interrupted is resumed.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import DictAction
from mmengine.logging import MMLogger

from mmgcnl.studies import (
    CsvError,
    Execution,
    StudyError,
    carry_out,
    other_batch_sizes,
    plan,
    read_results,
    read_study,
    render_page,
    render_table,
)
from mmgcnl.utils.cli import file_name, positive_int, seed

ROOT = Path(__file__).resolve().parents[1]


#: Writes docs/evidence.md.
EVIDENCE = (
    'python tools/study.py report configs/studies/camvid-selection.yml '
    'configs/studies/camvid.yml configs/studies/camvid-again.yml '
    'configs/studies/camvid-xavier.yml configs/studies/probe.yml '
    'configs/studies/probe-again.yml configs/studies/probe-core.yml '
    'configs/studies/natural-selection.yml configs/studies/natural.yml '
    '--out docs/evidence.md'
)
INTRO = f"""\
# Evidence

<!-- Written from the CSV files in docs/evidence by
{EVIDENCE} -->

The studies that were run in this project, with their results. Each section is one study: a
file in `configs/studies` with its rows and comparisons. The text of each says what was
written down before its runs, and what was added later.

`docs/evidence` has a CSV file for each study, with every value of every run, also those
that no table shows, and the revision, the versions of the libraries and the number of
threads. To repeat runs of a study, give another CSV file and as many threads:

```shell
OMP_NUM_THREADS=1 python tools/study.py run configs/studies/NAME.yml --rows ROW --seeds 0 \\
    --work-dir work_dirs/again --csv work_dirs/again/NAME.csv
```
"""


def run(args: argparse.Namespace) -> int:
    """Carry out the runs that are left, and print the tables."""
    study = read_study(args.study, ROOT)
    rows = study.select(args.table, args.rows)
    seeds = args.seeds or study.seeds
    work_dir = (args.work_dir or study.folder).resolve()
    sbatch = dict(partition=args.partition) if args.partition else {}
    execution = Execution(
        root=ROOT,
        work_dir=work_dir,
        csv=args.csv or study.csv or work_dir / 'results.csv',
        # How many there are at the same time is for Slurm to decide.
        jobs=args.jobs or (len(rows) * len(seeds) if args.cluster == 'slurm' else 1),
        gpus=args.gpus,
        images=args.num_images,
        ablate=args.command == 'ablate',
        cluster=args.cluster,
        minutes=args.minutes,
        sbatch={**sbatch, **args.sbatch},
    )
    runs = plan(study, rows, seeds, execution)
    if not execution.ablate:
        for message in other_batch_sizes(runs):
            print(f'warning: {message}', file=sys.stderr)
    if args.dry_run:
        for run in runs:
            print(f'# {run.name}', *run.printed(), sep='\n')
        return 0
    total = len(rows) * len(seeds)
    if execution.ablate:
        print(f'{len(runs)} models to ablate; results in {execution.csv}')
    else:
        print(f'{total - len(runs)} of {total} runs are done; results in {execution.csv}')
    failed = carry_out(runs, execution) if runs else {}
    results, faults = read_results(study, execution.csv)
    print(f'\n{render_table(results, args.table, [row.name for row in rows])}')
    for message in faults:
        print(f'skipped: {message}', file=sys.stderr)
    for name, reason in failed.items():
        print(f'failed: {name}: {reason}', file=sys.stderr)
    if failed:
        print('the same command tries them again', file=sys.stderr)
    return int(bool(failed))


def report(args: argparse.Namespace) -> int:
    """Write or print the report of some studies; 1 if a line of a CSV file is broken."""
    if args.csv and not args.csv.is_file():
        raise FileNotFoundError(f'--csv: no such file: {args.csv}')
    intro = INTRO if len(args.study) > 1 else ''
    text, faults = render_page(args.study, ROOT, args.csv, args.out, intro)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text, encoding='utf-8')
        print(f'written: {args.out}')
    else:
        print(text)
    for message in faults:
        print(f'skipped: {message}', file=sys.stderr)
    return int(bool(faults))


def add_run_arguments(command: argparse.ArgumentParser) -> None:
    """Add the options that `run` and `ablate` share."""
    command.add_argument('study', type=Path, help='YAML file')
    command.add_argument('--table', help='only the rows of this table')
    command.add_argument('--rows', nargs='+', metavar='ROW', help='only these rows')
    command.add_argument(
        '--seeds',
        nargs='+',
        type=seed,
        metavar='SEED',
        help="seeds to run; default: the study's",
    )
    command.add_argument(
        '--jobs',
        type=positive_int,
        help='runs at the same time; default: 1, or all in the queue of Slurm',
    )
    command.add_argument(
        '--cluster',
        choices=['local', 'slurm', 'debug'],
        default='local',
        help='where the runs are jobs: on this machine, under Slurm, or in this process '
        'with a debugger; default: local',
    )
    command.add_argument('--partition', metavar='P', help='of Slurm')
    command.add_argument(
        '--minutes',
        type=positive_int,
        default=24 * 60,
        help='time limit of a job of Slurm. Before its end, the training saves a '
        'checkpoint, and the job is queued again; default: %(default)s',
    )
    command.add_argument(
        '--sbatch',
        nargs='+',
        action=DictAction,
        default={},
        metavar='KEY=VALUE',
        help='further options of sbatch, such as account=vision cpus_per_task=64',
    )
    command.add_argument(
        '--work-dir', type=Path, help="default: the study's, else work_dirs/studies/NAME"
    )
    command.add_argument(
        '--csv', type=Path, help="default: the study's, else WORK_DIR/results.csv"
    )
    command.add_argument('--dry-run', action='store_true', help='only print the commands')
    # `ablate` uses one process for each, and all images.
    command.set_defaults(function=run, gpus=1, num_images=None)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest='command', required=True)
    text = 'train, test and measure'
    command = commands.add_parser('run', help=text, description=text)
    add_run_arguments(command)
    command.add_argument(
        '--gpus',
        type=positive_int,
        default=1,
        help='processes of each run, the same for all runs of a study, since the batch '
        'grows with them; default: 1',
    )
    command.add_argument(
        '--num-images',
        type=positive_int,
        metavar='N',
        help='measure cosine distances on the first N test images, the same for all runs '
        'of a study; default: all',
    )
    text = 'take the priors away from the models that `run` has trained'
    add_run_arguments(commands.add_parser('ablate', help=text, description=text))
    command = commands.add_parser('report', help='print or write tables and comparisons')
    command.add_argument('study', type=Path, nargs='+', help='YAML files')
    command.add_argument('--csv', type=Path, help="instead of the study's")
    command.add_argument(
        '--out',
        type=file_name('.md'),
        metavar='FILE.md',
        help='Markdown file; the pictures go into a folder of the same name beside it',
    )
    command.set_defaults(function=report)
    args = parser.parse_args(argv)
    try:
        MMLogger.get_current_instance().setLevel('WARNING')  # no line per config
        sys.exit(args.function(args))
    except (CsvError, StudyError, OSError) as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        print('\ninterrupted: the same command goes on', file=sys.stderr)
        if getattr(args, 'cluster', '') == 'slurm':
            print('jobs stay in the queue of Slurm; scancel removes them', file=sys.stderr)
        sys.exit(130)


if __name__ == '__main__':
    main()
