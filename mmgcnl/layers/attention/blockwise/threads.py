"""Run groups of heads of an attention side by side, one thread each."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from ...precision import no_autocast
from .tiles import Tiling

_S = TypeVar('_S')
_T = TypeVar('_T')
# The thread count is per thread; new threads take the global default. set_num_threads
# changes both: hold this lock while reading or changing them.
_thread_count_lock = threading.Lock()


def map_groups(
    compute: Callable[[tuple[slice, slice], _S], _T],
    make_scratch: Callable[[], _S],
    tiling: Tiling,
    device_type: str,
) -> list[_T]:
    """Call ``compute`` with the images and heads of every group.

    On a CPU several groups run at a time, each on a thread of its own: its tile then stays
    in the cache of one core, whereas threads that share every operation would exchange
    cache lines. Where heads are small, starting these threads would take longer
    than the attention, and the threads do share the operations. Gradients and autocast are
    off inside.

    Args:
        compute: Called as ``compute((images, heads), scratch)``.
        make_scratch: Makes memory to work in, once for each thread.
        tiling: Has the groups.
        device_type: For example 'cpu'. Other devices run one group after another.

    Returns:
        The results in the order of the groups.
    """
    with _thread_count_lock:
        threads = torch.get_num_threads()
    workers = min(threads, len(tiling.groups))
    if tiling.small or device_type != 'cpu':
        workers = 1
    inference = torch.is_inference_mode_enabled()
    remaining = deque(range(len(tiling.groups)))
    results: dict[int, _T] = {}

    def work() -> None:
        if workers > 1:
            torch.set_num_threads(threads // workers)
        scratch = make_scratch()
        # PyTorch's modes are per thread: a new thread does not inherit them.
        with torch.inference_mode(inference), torch.no_grad():
            with no_autocast(device_type):
                while True:
                    try:
                        i = remaining.popleft()
                    except IndexError:
                        return
                    results[i] = compute(tiling.groups[i], scratch)

    if workers == 1:
        work()
    else:
        # This thread works, too: starting one more would take longer.
        with _thread_count_lock, ThreadPoolExecutor(workers - 1) as pool:
            # Read it in a pool thread; this thread's own may already be reduced.
            before = pool.submit(torch.get_num_threads).result()
            try:
                others = [pool.submit(work) for _ in range(workers - 1)]
                work()
                for other in others:
                    other.result()
            finally:
                remaining.clear()  # after an error or an interrupt, the others stop, too
                torch.set_num_threads(before)
    return [results[i] for i in range(len(tiling.groups))]
