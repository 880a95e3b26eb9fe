"""The processes of a distributed run, also on machines without a GPU."""

from __future__ import annotations

from mmengine.device import get_device
from mmengine.dist import init_dist, is_distributed
from torch import distributed


def connect_processes(launcher: str) -> None:
    """Connect the processes that a launcher has started: by gloo without a GPU.

    Args:
        launcher: 'none', or one of mmengine's, such as 'pytorch'.
    """
    if launcher == 'none' or is_distributed():
        return
    if get_device() == 'cpu':  # mmengine would ask for a CUDA device
        distributed.init_process_group('gloo')
    else:
        init_dist(launcher)


def close_process_group() -> None:
    """Leave the other processes at the end of a distributed run.

    Threads of a process group that is still open may be aborted while Python exits, and
    then a training that has ended well looks like one that failed.
    """
    if is_distributed():
        distributed.destroy_process_group()
