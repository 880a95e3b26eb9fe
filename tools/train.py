"""Train a detector (mmdet config) or a segmentor (mmseg config)."""

import argparse
from collections.abc import Sequence
from importlib.util import find_spec

from mmengine.config import Config
from mmengine.device import get_device

from mmgcnl.engine import (
    CheckpointError,
    Runner,
    add_common_arguments,
    check_file,
    load_config,
)


def make_watchable(cfg: Config) -> None:
    """Log to TensorBoard too, where it is installed, and draw some of the validation.

    Here and not in the configs, since these are also tested with, and a hook that draws
    would then draw every image.
    """
    hook = cfg.get('default_hooks', {}).get('visualization')
    if hook is not None:
        hook.setdefault('draw', True)
    backends = cfg.get('visualizer', {}).get('vis_backends')
    tensorboard = dict(type='TensorboardVisBackend')
    if backends is not None and tensorboard not in backends:
        if find_spec('tensorboard'):
            backends.append(tensorboard)
        else:
            print('no log for TensorBoard: pip install tensorboard')


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='path of the config')
    parser.add_argument(
        '--work-dir',
        help='where logs and checkpoints go (work_dirs/<name of the config>)',
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='go on from this checkpoint, or from the latest in the work dir',
    )
    parser.add_argument(
        '--amp',
        nargs='?',
        const='fp16',
        choices=['fp16', 'bf16'],
        help='train with automatic mixed precision; bf16 works without a GPU, too',
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate by the batch size over all processes, '
        'relative to auto_scale_lr.base_batch_size of the config',
    )
    parser.add_argument(
        '--trainval',
        action='store_true',
        help='train on the training and the validation images together, for the '
        "benchmark's server; for configs with `trainval` (Cityscapes, CamVid)",
    )
    add_common_arguments(parser)
    args = parser.parse_args(argv)

    if args.amp == 'fp16' and get_device() == 'cpu':
        parser.error(
            '--amp needs a GPU and none is available; train without it, or by --amp bf16'
        )
    if args.resume not in (None, 'auto'):
        check_file(parser, '--resume', args.resume)
    cfg = load_config(parser, args)

    if args.amp == 'fp16':
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.loss_scale = 'dynamic'
    elif args.amp == 'bf16':
        # The config may ask for float16.
        cfg.optim_wrapper.pop('loss_scale', None)
        cfg.optim_wrapper.pop('dtype', None)
        cfg.optim_wrapper.type = 'Bfloat16OptimWrapper'
    if args.auto_scale_lr:
        if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
            parser.error(
                '--auto-scale-lr: the config does not say which batch size its '
                'learning rate is for; set it by '
                '--cfg-options auto_scale_lr.base_batch_size=N'
            )
        cfg.auto_scale_lr.enable = True
    if args.trainval:
        if 'trainval' not in cfg:
            parser.error(
                '--trainval: the config does not say what it would train on; '
                'those on Cityscapes and CamVid do'
            )
        cfg.merge_from_dict(cfg.trainval)
    if args.resume is not None:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume

    make_watchable(cfg)
    try:
        Runner.from_cfg(cfg).train()
    except CheckpointError as error:
        parser.error(str(error))


if __name__ == '__main__':
    main()
