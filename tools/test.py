"""Evaluate a detector (mmdet config) or a segmentor (mmseg config)."""

import argparse
import os
from collections.abc import Sequence

from mmengine.config import Config

from mmgcnl.engine import (
    CheckpointError,
    Runner,
    add_common_arguments,
    check_file,
    load_config,
)


def draw_predictions(
    cfg: Config, show: bool, show_dir: str | None, wait_time: float
) -> None:
    """Have the visualization hook show the predictions or draw them to files."""
    hook = cfg.default_hooks.visualization
    hook.draw = True
    hook.interval = 1  # mmseg 1.2.2 keeps to it in tests as well
    if show:
        hook.show = True
        hook.wait_time = wait_time
    if show_dir:
        if is_detector(cfg):
            hook.test_out_dir = show_dir
        else:
            cfg.visualizer.save_dir = show_dir


def save_predictions(cfg: Config, out: str) -> None:
    """Have the predictions written to the .pkl file or the folder ``out``."""
    metrics = cfg.test_evaluator
    if not isinstance(metrics, list):
        metrics = [metrics]
    if is_detector(cfg):
        metrics.append(dict(type='DumpDetResults', out_file_path=out))
    else:
        metrics[0].update(output_dir=out, keep_results=True)
    cfg.test_evaluator = metrics


def write_submission(cfg: Config, folder: str) -> None:
    """Predict what the benchmark's server evaluates, and write its files."""
    os.makedirs(folder, exist_ok=True)
    cfg.merge_from_dict(cfg.submission)
    if is_detector(cfg):
        name = os.path.splitext(os.path.basename(cfg.filename))[0]
        prefix = os.path.join(folder, f'detections_test-dev2017_{name}_results')
        cfg.test_evaluator.outfile_prefix = prefix
    else:
        cfg.test_evaluator.output_dir = folder


def is_detector(cfg: Config) -> bool:
    return cfg.get('default_scope') == 'mmdet'


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='path of the config')
    parser.add_argument('checkpoint', help='path or URL of the checkpoint')
    parser.add_argument(
        '--work-dir',
        help='where the log and the metrics go (work_dirs/<name of the config>)',
    )
    parser.add_argument(
        '--out',
        help='where predictions go: for a detector a .pkl file, '
        'for a segmentor a folder of label maps',
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
        '--tta', action='store_true', help='test-time augmentation of the config'
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
    cfg.load_from = args.checkpoint
    # A config written by a resumed training asks to resume.
    cfg.resume = False

    if args.show or args.show_dir:
        if 'visualization' not in cfg.get('default_hooks', {}):
            parser.error(
                '--show, --show-dir: the config has no '
                'default_hooks.visualization to draw with'
            )
        draw_predictions(cfg, args.show, args.show_dir, args.wait_time)
    if args.tta:
        for key in ('tta_model', 'tta_pipeline'):
            if key not in cfg:
                parser.error(f'--tta: the config has no {key}')
        cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
        cfg.model = dict(cfg.tta_model, module=cfg.model)
    if args.submission:
        if 'submission' not in cfg:
            parser.error(
                '--submission: the config does not say what its benchmark evaluates; '
                'those on COCO (boxes, masks) and Cityscapes do'
            )
        write_submission(cfg, args.submission)
    if args.out:
        if is_detector(cfg) and not args.out.endswith(('.pkl', '.pickle')):
            parser.error(f'--out: a detector needs a .pkl file, not {args.out}')
        save_predictions(cfg, args.out)

    try:
        Runner.from_cfg(cfg).test()
    except CheckpointError as error:
        parser.error(str(error))


if __name__ == '__main__':
    main()
