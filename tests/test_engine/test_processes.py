"""The end of a process group."""

from pathlib import Path

import pytest
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from mmgcnl.engine import close_process_group

TASKS = Path('/proc/self/task')


def gloo_threads() -> list[str]:
    names = [path.read_text().strip() for path in TASKS.glob('*/comm')]
    return [name for name in names if 'gloo' in name]


@pytest.mark.skipif(not TASKS.is_dir(), reason='the names of threads are read from /proc')
def test_no_thread_of_the_process_group_is_left(tmp_path):
    """Otherwise a process now and then aborts while Python exits, after all is done."""
    store = distributed.FileStore(str(tmp_path / 'store'), 1)
    distributed.init_process_group('gloo', store=store, rank=0, world_size=1)
    model = DistributedDataParallel(nn.Linear(1, 1))
    model.users = [model]  # as a runner and its hooks refer to each other
    assert gloo_threads()
    del model
    close_process_group()
    assert not gloo_threads()
