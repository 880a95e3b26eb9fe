"""Run the heads of an attention side by side, one thread each."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

_T = TypeVar('_T')
# The thread count is process-wide; hold this lock while reading or changing it.
_thread_count_lock = threading.Lock()


def map_heads(
    compute: Callable[[tuple[int, ...]], _T], size: Sequence[int], device_type: str
) -> list[_T]:
    """Call ``compute`` with the index (image, head) of every head, in order.

    On a CPU several heads run at a time, each on a thread of its own: its tile then stays
    in the cache of one core, whereas threads that share every operation would pass the
    cache lines around. Gradients and autocast are off inside.

    Args:
        compute: Called as ``compute((image, head))``.
        size: B and n.
        device_type: For example 'cpu'. Other devices run one head after another.
    """
    indices = list(itertools.product(*map(range, size)))
    with _thread_count_lock:
        threads = torch.get_num_threads()
    workers = min(threads, len(indices)) if device_type == 'cpu' else 1
    inference = torch.is_inference_mode_enabled()

    def run(index: tuple[int, ...]) -> _T:
        # PyTorch's modes are per thread: a new thread does not inherit them.
        with torch.inference_mode(inference), torch.no_grad():
            with torch.autocast(device_type, enabled=False):
                return compute(index)

    if workers == 1:
        return [run(index) for index in indices]
    with _thread_count_lock, ThreadPoolExecutor(workers) as pool:
        torch.set_num_threads(threads // workers)
        try:
            return list(pool.map(run, indices))
        finally:
            torch.set_num_threads(threads)
