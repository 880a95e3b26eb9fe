"""Look at all the data of a config before training: count it, find faults, draw some.

Every image and every annotation of every split is read, by the config's data sets and
loading steps, with the config's number of workers. The exit code is 1 when there is a
fault; each is a line at the end.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config, DictAction

from mmgcnl.datasets.inspection import SPLITS, Report, draw_samples, inspect_data
from mmgcnl.engine import check_file


def format_report(report: Report) -> str:
    """The counts of a split as text."""
    occur = int((report.images > 0).sum())
    text = f'{report.name}: {report.num_images} images, '
    text += f'{occur} of {len(report.classes)} classes' if report.unit else 'no annotation'
    if not report.unit:
        return text
    width = max(map(len, report.classes))
    text += f'\n  {"class":{width}}  images     {report.unit}'
    total = max(report.amounts.sum(), 1)
    for name, images, amount in zip(report.classes, report.images, report.amounts):
        share = f'{100 * amount / total:6.2f} %' if report.unit == 'pixels' else ''
        text += f'\n  {name:{width}} {images:7d} {amount:10d} {share}'.rstrip()
    return text


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='path of the config')
    parser.add_argument(
        '--out',
        type=Path,
        metavar='PNG',
        help='where the samples are drawn (work_dirs/<name of the config>/data.png)',
    )
    parser.add_argument(
        '--num-samples',
        type=int,
        default=4,
        metavar='N',
        help='images to draw of each split; 0: none (%(default)s)',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='override settings of the config',
    )
    args = parser.parse_args(argv)
    check_file(parser, 'config', args.config)
    if args.num_samples < 0:
        parser.error(f'--num-samples {args.num_samples}: must be 0 or more')
    out = args.out or Path('work_dirs', Path(args.config).stem, 'data.png')
    if out.suffix.lower() != '.png':
        parser.error(f'--out {out}: must end in .png')
    cfg = Config.fromfile(args.config)
    if args.cfg_options is not None:
        cfg.merge_from_dict(args.cfg_options)
    if not any(cfg.get(f'{split}_dataloader') for split in SPLITS):
        parser.error(f'{args.config} has no data: none of {{train,val,test}}_dataloader')

    reports = list(inspect_data(cfg, args.num_samples))
    print()
    for report in reports:
        print(format_report(report) + '\n')
    drawn = [report for report in reports if report.samples]
    if drawn:
        draw_samples(drawn, out)
        print(f'samples drawn: {out}')
    faults = [f'{report.name}: {fault}' for report in reports for fault in report.faults]
    if faults:
        number = f'{len(faults)} fault' + 's' * (len(faults) > 1)
        print(*faults, number, sep='\n', file=sys.stderr)
        sys.exit(1)
    print(f'no fault in {sum(report.num_images for report in reports)} images')


if __name__ == '__main__':
    main()
