"""The options that the command lines of training and testing share."""

import os
from argparse import ArgumentParser, Namespace
from pathlib import Path

from mmengine.config import Config
from mmengine.device import get_device

from mmgcnl.utils.cli import add_cfg_options, check_file, read_config, reporting_errors


def add_common_arguments(parser: ArgumentParser) -> None:
    """Add the options that train.py and test.py have in common."""
    add_cfg_options(
        parser,
        ', such as train_dataloader.batch_size=1 or model.backbone.init_cfg=None (no '
        'pretrained weights); write lists as "[a,b]", without spaces',
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='what started the processes (pytorch: torchrun, see dist_*.sh)',
    )
    # torch.distributed.launch passes this option, torchrun sets LOCAL_RANK.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)


def load_config(parser: ArgumentParser, args: Namespace) -> Config:
    """Read ``args.config`` and merge the common options into it.

    Args:
        parser: Reports wrong input.
        args: Has ``config``, ``work_dir`` and the options of
            :func:`add_common_arguments`.

    Returns:
        The config, with ``launcher`` and ``work_dir`` set. ``work_dir`` is the option if
        given, else that of the config, else work_dirs/<name of the config>.

    Raises:
        SystemExit: With code 2 when the config or its ``load_from`` does not exist,
            nothing reads one of ``--cfg-options``, or the launcher cannot work here.
    """
    check_file(parser, 'config', args.config)
    if args.launcher == 'pytorch' and 'RANK' not in os.environ:
        parser.error(
            '--launcher pytorch: RANK is not set; start with torchrun, '
            'tools/dist_train.sh or tools/dist_test.sh'
        )
    if args.launcher in ('slurm', 'mpi') and get_device() == 'cpu':
        parser.error(
            f'--launcher {args.launcher} needs a GPU and none is available; '
            'without one use --launcher pytorch'
        )
    # mmengine picks each process's GPU by LOCAL_RANK, which Open MPI does not set.
    local_rank = os.environ.get('OMPI_COMM_WORLD_LOCAL_RANK', str(args.local_rank))
    os.environ.setdefault('LOCAL_RANK', local_rank)

    with reporting_errors(parser, args.config):
        cfg = read_config(args.config, args.cfg_options)
    cfg.launcher = args.launcher
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = os.path.join('work_dirs', Path(args.config).stem)
    if cfg.get('load_from') is not None:
        check_file(parser, 'load_from', cfg.load_from)
    return cfg
