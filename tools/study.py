"""Run a study, every row with every seed, and report studies.

python tools/study.py run configs/studies/probe.yml --jobs 2
python tools/study.py report configs/studies/probe.yml --out report.md

`run` appends the results of every finished run to the study's CSV file. A run that is in
it is not repeated; a training that was interrupted is resumed.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mmengine.logging import MMLogger

from mmgcnl.studies import (
    CsvError,
    Execution,
    Results,
    Scheduler,
    Study,
    StudyError,
    draw,
    other_batch_sizes,
    plan,
    read_records,
    read_study,
    render,
    render_table,
)
from mmgcnl.utils.cli import file_name, positive_int, seed

ROOT = Path(__file__).resolve().parents[1]


#: Writes docs/evidence.md.
EVIDENCE = (
    'python tools/study.py report configs/studies/camvid-selection.yml '
    'configs/studies/camvid.yml configs/studies/camvid-again.yml '
    'configs/studies/camvid-xavier.yml configs/studies/probe.yml '
    'configs/studies/probe-again.yml --out docs/evidence.md'
)
INTRO = f"""\
# Evidence

<!-- Written from the CSV files in docs/evidence by
{EVIDENCE} -->

The studies that were run in this project, with their results. Each section is one study: a
file in `configs/studies` with its rows and comparisons. The text of each says what was
written down before its runs, and what was added later. `docs/evidence` has a CSV
file for each, with every value that was measured.
"""


def run(args: argparse.Namespace) -> int:
    """Carry out the runs that are left, and print the tables."""
    study = read_study(args.study, ROOT)
    rows = study.select(args.table, args.rows)
    work_dir = (args.work_dir or study.folder).resolve()
    options = Execution(
        root=ROOT,
        work_dir=work_dir,
        csv=args.csv or study.csv or work_dir / 'results.csv',
        jobs=args.jobs,
        gpus=args.gpus,
        images=args.num_images,
        ablate=args.command == 'ablate',
    )
    seeds = args.seeds or study.seeds
    runs, broken = plan(study, rows, seeds, options)
    for message in broken:
        print(f'skipped: {message}', file=sys.stderr)
    if not options.ablate:
        for message in other_batch_sizes(runs):
            print(f'warning: {message}', file=sys.stderr)
    if args.dry_run:
        for run in runs:
            print(f'# {run.name}', *run.printed(), sep='\n')
        return 0
    total = len(rows) * len(seeds)
    if options.ablate:
        print(f'{len(runs)} models to ablate; results in {options.csv}')
    else:
        print(f'{total - len(runs)} of {total} runs are done; results in {options.csv}')
    failed = Scheduler(runs, options).run() if runs else {}
    results, _ = read_results(study, options.csv)
    print(f'\n{render_table(results, args.table, [row.name for row in rows])}')
    for name, reason in failed.items():
        print(f'failed: {name}: {reason}', file=sys.stderr)
    if failed:
        print('the same command tries them again', file=sys.stderr)
    return int(bool(failed))


def report(args: argparse.Namespace) -> int:
    """Write or print the report of some studies; 1 if a line of a CSV file is broken."""
    if args.csv and not args.csv.is_file():
        raise FileNotFoundError(f'--csv: no such file: {args.csv}')
    text, faults, results = compose(args.study, args.csv, args.out and args.out.stem)
    if args.out:
        for found in results:
            if found.runs:
                draw(found, args.out.with_suffix('') / f'{found.study.name}.png')
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text, encoding='utf-8')
        print(f'written: {args.out}')
    else:
        print(text)
    for message in faults:
        print(f'skipped: {message}', file=sys.stderr)
    return int(bool(faults))


def compose(
    paths: Sequence[Path], csv: Path | None = None, pictures: str | None = None
) -> tuple[str, list[str], list[Results]]:
    """Compose the report of some studies.

    Args:
        paths: Their YAML files.
        csv: Read it instead of the CSV files of the studies.
        pictures: Folder of the pictures, relative to the report; None for none.

    Returns:
        The report, a message for each broken line of the CSV files, and the results.
    """
    texts, faults, found = [INTRO] if len(paths) > 1 else [], [], []
    for path in paths:
        study = read_study(path, ROOT)
        results, broken = read_results(study, csv)
        faults += broken
        found.append(results)
        first = None
        if study.repeats is not None:
            first, broken = read_results(study.repeats)
            faults += broken
        texts.append(render(results, pictures and f'{pictures}/{study.name}.png', first))
    # A study and one that repeats it read the same file.
    return '\n'.join(texts), list(dict.fromkeys(faults)), found


def read_results(study: Study, csv: Path | None = None) -> tuple[Results, list[str]]:
    """Read the results of a study, and messages about broken lines of its CSV file."""
    csv = csv or study.csv or study.folder / 'results.csv'
    records, broken = read_records(csv) if csv.exists() else ([], [])
    return Results(study, records), broken


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest='command', required=True)
    for name, text in (
        ('run', 'train, test and measure'),
        ('ablate', 'take the priors away from the models that `run` has trained'),
    ):
        command = commands.add_parser(name, help=text, description=text)
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
            '--jobs', type=positive_int, default=1, help='runs at the same time; default: 1'
        )
        if name == 'run':
            command.add_argument(
                '--gpus',
                type=positive_int,
                default=1,
                help='processes of each run, the same for all runs of a study, since the '
                'batch grows with them; default: 1',
            )
            command.add_argument(
                '--num-images',
                type=positive_int,
                metavar='N',
                help='measure cosine distances on the first N test images, the same for '
                'all runs of a study; default: all',
            )
        command.add_argument(
            '--work-dir',
            type=Path,
            help="default: the study's, else work_dirs/studies/NAME",
        )
        command.add_argument(
            '--csv', type=Path, help="default: the study's, else WORK_DIR/results.csv"
        )
        command.add_argument(
            '--dry-run', action='store_true', help='only print the commands'
        )
        command.set_defaults(function=run)
        if name == 'ablate':  # one process each, over all images
            command.set_defaults(gpus=1, num_images=None)
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
        sys.exit(130)


if __name__ == '__main__':
    main()
