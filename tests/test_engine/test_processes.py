"""The end of a process group."""

from pathlib import Path

import pytest
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from mmgcnl.engine import close_process_group
from tests.builders import ROOT, call_tool

TASKS = Path('/proc/self/task')
pytestmark = pytest.mark.skipif(
    not TASKS.is_dir(), reason='the names of threads are read from /proc'
)


def gloo_threads() -> list[str]:
    names = [path.read_text().strip() for path in TASKS.glob('*/comm')]
    return [name for name in names if 'gloo' in name]


class Runner:
    """One whose model is distributed."""

    def __init__(self, folder: Path) -> None:
        store = distributed.FileStore(str(folder / 'store'), 1)
        distributed.init_process_group('gloo', store=store, rank=0, world_size=1)
        self.model = DistributedDataParallel(nn.Linear(1, 1))
        self.hooks = [self]  # as a runner and its hooks refer to each other
        assert gloo_threads()

    def train(self) -> None:
        """End as after SIGTERM."""
        close_process_group()
        raise SystemExit(143)


def test_no_thread_of_the_process_group_is_left(tmp_path):
    """Otherwise a process now and then aborts while Python exits, after all is done."""
    runner = Runner(tmp_path)
    del runner
    close_process_group()
    assert not gloo_threads()


def test_no_thread_of_the_process_group_is_left_after_sigterm(tmp_path, monkeypatch):
    monkeypatch.setenv('LOCAL_RANK', '0')
    monkeypatch.setattr('mmgcnl.engine.build_runner', lambda cfg: Runner(tmp_path))
    threads = []
    with pytest.raises(SystemExit) as stopped:
        try:
            call_tool('train', ROOT / 'configs/probe/gcnl_probe.py')
        finally:
            threads += gloo_threads()
    assert stopped.value.code == 143 and not threads
