"""Train a detector (mmdet config) or a segmentor (mmseg config)."""

import argparse
import os
from collections.abc import Sequence

from mmengine.device import get_device
from torch.distributed.elastic.multiprocessing.errors import record

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
    make_watchable,
    resume_training,
    scale_learning_rate,
    use_amp,
    use_trainval,
)
from mmgcnl.utils.cli import check_file, reporting_errors


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='path of the config')
    parser.add_argument(
        '--work-dir',
        help='folder for logs and checkpoints (work_dirs/<name of the config>)',
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='resume from this checkpoint, or from the latest in the work dir',
    )
    parser.add_argument(
        '--amp',
        nargs='?',
        const='fp16',
        choices=['fp16', 'bf16'],
        help='train with automatic mixed precision (fp16); bf16 also works without a GPU',
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
            '--amp needs a GPU and none is available; train without it, or with --amp bf16'
        )
    if int(os.environ.get('TORCHELASTIC_MAX_RESTARTS', 0)) > 0:
        if args.resume not in (None, 'auto'):
            parser.error(
                f'--resume {args.resume}: with MAX_RESTARTS, every restart would begin at '
                'this checkpoint again; give no file, to continue from the latest in the '
                'work dir'
            )
        args.resume = 'auto'
    if args.resume not in (None, 'auto'):
        check_file(parser, '--resume', args.resume)
    cfg = load_config(parser, args)

    if args.amp:
        use_amp(cfg, args.amp)
    if args.auto_scale_lr:
        with reporting_errors(parser, '--auto-scale-lr'):
            scale_learning_rate(cfg)
    if args.trainval:
        with reporting_errors(parser, '--trainval'):
            use_trainval(cfg)
    if args.resume is not None:
        resume_training(cfg, args.resume)

    make_watchable(cfg)
    status = None
    try:
        build_runner(cfg).train()
    except (CheckpointError, ConfigError, DataError) as error:
        close_process_group()
        parser.error(str(error))
    except SystemExit as stopped:  # after SIGTERM; its traceback refers to the runner
        status = stopped.code
    close_process_group()
    if status:
        raise SystemExit(status)


if __name__ == '__main__':
    record(main)()  # so that torchrun shows the first error last
