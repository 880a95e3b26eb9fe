"""Check all data of a config before training: count it, find faults, draw samples.

The data sets and loading steps of the config read every image and every annotation of
every split, with as many workers as the config has. The classes, and how label maps are
read, are compared with the annotations, between the splits, and with the heads of the
model and the metrics. At the end there is a note on whatever is unusual but may be
intended, and then a line for each fault.

Exit code 1: there are faults. Exit code 2: wrong input.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config

from mmgcnl.apis import build_model
from mmgcnl.datasets.inspection import SPLITS, draw_samples, inspect_data
from mmgcnl.datasets.report import Report
from mmgcnl.datasets.splits import metrics_of
from mmgcnl.engine.num_classes import compare_num_classes
from mmgcnl.engine.splits import compare_ignore_index
from mmgcnl.utils.cli import (
    add_cfg_options,
    existing_file,
    file_name,
    non_negative_int,
    read_config,
    reporting_errors,
)


def format_report(report: Report) -> str:
    """The counts of a split as text."""
    occur = int((report.images > 0).sum())
    text = f'{report.name}: {report.num_images} images, '
    text += f'{occur} of {len(report.classes)} classes' if report.unit else 'no annotation'
    if not report.unit:
        return text
    width = max(map(len, report.classes), default=0)
    text += f'\n  {"class":{width}}  images     {report.unit}'
    total = max(report.amounts.sum(), 1)
    for name, images, amount in zip(report.classes, report.images, report.amounts):
        share = f'{100 * amount / total:6.2f} %' if report.unit == 'pixels' else ''
        text += f'\n  {name:{width}} {images:7d} {amount:10d} {share}'.rstrip()
    if report.ignored:
        share = 100 * report.ignored / (report.ignored + report.amounts.sum())
        text += f'\n  ignored: {share:.2f} % of all pixels'
    return text


def check_model(cfg: Config, reports: list[Report]) -> list[str]:
    """Compare the heads of the config's model with its training data, and its metrics."""
    first = next((report for report in reports if report.classes), None)
    if 'model' not in cfg or first is None:
        return []
    model = build_model(cfg)
    metrics = metrics_of(cfg, ('val', 'test'))
    faults = compare_num_classes(model, first.metainfo)
    faults += dict.fromkeys(compare_ignore_index(model, first.settings, metrics))
    return [f'model: {fault}' for fault in faults]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', type=existing_file, help='path of the config')
    parser.add_argument(
        '--out',
        type=file_name('.png'),
        metavar='PNG',
        help='where the samples are drawn (work_dirs/<name of the config>/data.png)',
    )
    parser.add_argument(
        '--num-samples',
        type=non_negative_int,
        default=4,
        metavar='N',
        help='number of images to draw from each split; 0: none (%(default)s)',
    )
    add_cfg_options(parser)
    args = parser.parse_args(argv)
    out = args.out or Path('work_dirs', Path(args.config).stem, 'data.png')
    with reporting_errors(parser, args.config):
        cfg = read_config(args.config, args.cfg_options)
    if not any(cfg.get(f'{split}_dataloader') for split in SPLITS):
        parser.error(f'{args.config} has no data: none of {{train,val,test}}_dataloader')

    reports: list[Report] = []
    error = None
    try:
        reports.extend(inspect_data(cfg, args.num_samples))
    except Exception as stopped:  # what was found until then is reported
        error = stopped
    print()
    for report in reports:
        print(format_report(report) + '\n')
    drawn = [report for report in reports if report.samples]
    if drawn:
        draw_samples(drawn, out)
        print(f'samples drawn: {out}')
    for report in reports:
        for note in report.notes:
            print(f'note: {report.name}: {note}')
    faults = [f'{report.name}: {fault}' for report in reports for fault in report.faults]
    if error is None:
        faults += check_model(cfg, reports)
    if faults:
        number = f'{len(faults)} fault' + 's' * (len(faults) > 1)
        print(*faults, number, sep='\n', file=sys.stderr)
    if error is not None:
        raise error
    if faults:
        sys.exit(1)
    print(f'no fault in {sum(report.num_images for report in reports)} images')


if __name__ == '__main__':
    main()
