"""The processes of a distributed run, also on machines without a GPU."""

from __future__ import annotations

import gc
from datetime import timedelta

from mmengine.device import get_device
from mmengine.dist import init_dist, is_distributed
from torch import distributed


def connect_without_gpu(launcher: str, timeout: float | None = None) -> None:
    """Connect the processes of torchrun over gloo, on a machine without a GPU.

    mmengine would ask for a CUDA device, whatever the backend, unless the process group is
    already initialised. With other launchers than 'pytorch' nothing happens. An operation
    fails after ``timeout`` seconds; None: PyTorch's default.
    """
    if launcher == 'pytorch' and get_device() == 'cpu' and not is_distributed():
        limit = None if timeout is None else timedelta(seconds=timeout)
        distributed.init_process_group('gloo', timeout=limit)


def connect_processes(launcher: str) -> None:
    """Connect the processes that a launcher has started, with or without a GPU."""
    connect_without_gpu(launcher)
    if launcher != 'none' and not is_distributed():
        init_dist(launcher)


def close_process_group() -> None:
    """Leave the other processes at the end of a distributed run.

    Threads of a process group that is still open may be aborted while Python exits, and
    then a training that has ended well looks like one that failed.

    They end with the last reference to the group. Call this after the runner has gone out
    of use: its model refers to itself and to the group, until Python collects it here.
    """
    if is_distributed():
        distributed.destroy_process_group()
    gc.collect()
