"""Evaluate a detector (mmdet config) or a segmentor (mmseg config)."""

import argparse
import sys
from collections.abc import Sequence

from mmgcnl.datasets import DataError
from mmgcnl.engine import (
    CheckpointError,
    ConfigError,
    add_common_arguments,
    build_runner,
    close_process_group,
    load_config,
)
from mmgcnl.engine.options import (
    draw_predictions,
    is_detector,
    save_predictions,
    use_tta,
    write_submission,
)
from mmgcnl.utils.cli import check_file, reporting_errors


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='path of the config')
    parser.add_argument('checkpoint', help='path or URL of the checkpoint')
    parser.add_argument(
        '--work-dir',
        help='folder for the log and the metrics (work_dirs/<name of the config>)',
    )
    parser.add_argument(
        '--out',
        help='where to write the predictions: for a detector a .pkl file, for a '
        'segmentor a folder of label maps',
    )
    parser.add_argument('--show', action='store_true', help='show the predictions')
    parser.add_argument(
        '--show-dir',
        help='draw the predictions into this folder; for a detector, a relative '
        'path is taken below <work dir>/<time stamp>',
    )
    parser.add_argument(
        '--wait-time', type=float, default=2, help='seconds between shown images'
    )
    parser.add_argument(
        '--tta', action='store_true', help="use the config's test-time augmentation"
    )
    parser.add_argument(
        '--submission',
        metavar='DIR',
        help="write files for the benchmark's server into this folder instead of "
        'evaluating: COCO test-dev, Cityscapes test',
    )
    add_common_arguments(parser)
    args = parser.parse_args(argv)

    check_file(parser, 'checkpoint', args.checkpoint)
    cfg = load_config(parser, args)
    for key in args.cfg_options:  # no error: a training may have the same options
        test_key = f'test_{key.removeprefix("val_")}'
        if key.startswith('val_') and test_key not in args.cfg_options:
            print(f'note: {key} has no effect on a test: set {test_key}', file=sys.stderr)
    cfg.load_from = args.checkpoint
    cfg.resume = False  # the config of a resumed training asks to resume
    if args.show or args.show_dir:
        with reporting_errors(parser, '--show, --show-dir'):
            draw_predictions(cfg, args.show, args.show_dir, args.wait_time)
    if args.tta:
        with reporting_errors(parser, '--tta'):
            use_tta(cfg)
    if args.submission:
        with reporting_errors(parser, '--submission'):
            write_submission(cfg, args.submission)
    if args.out:
        if args.submission and not is_detector(cfg):
            parser.error(
                '--out: with --submission, the label maps are in its folder already'
            )
        with reporting_errors(parser, '--out'):
            save_predictions(cfg, args.out)

    try:
        build_runner(cfg).test()
    except (CheckpointError, ConfigError, DataError) as error:
        close_process_group()
        parser.error(str(error))
    close_process_group()


if __name__ == '__main__':
    main()
