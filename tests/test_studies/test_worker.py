"""What a run leaves behind, and where its processes meet."""

import json
import math
import socket
from types import SimpleNamespace

import pytest

from mmgcnl.studies.runs import Execution
from mmgcnl.studies.worker import Worker, _measured, _port


@pytest.fixture
def run(tmp_path):
    (tmp_path / 'test/now').mkdir(parents=True)
    (tmp_path / 'test/now/metrics.json').write_text(json.dumps(dict(mIoU=50.0, time=1.0)))
    (tmp_path / 'distances.json').write_text('{}')
    state = dict(peak_memory_mib=100.0, train_seconds=7.0)
    return SimpleNamespace(folder=tmp_path, state=lambda: state, log_lines=lambda: [])


def test_run_shorter_than_the_interval_of_the_logger(run, monkeypatch):
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    assert _measured(run) == dict(mIoU=50.0, peak_memory_mib=100.0, train_seconds=7.0)
    del run.state()['train_seconds']
    assert math.isnan(_measured(run)['train_seconds'])
    monkeypatch.setattr('torch.cuda.is_available', lambda: True)  # which only the log knows
    assert 'peak_memory_mib' not in _measured(run)


def test_time_of_the_log(run, monkeypatch):
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    run.log_lines = lambda: [dict(step=50, time=0.2), dict(step=100, time=0.4)]
    assert _measured(run)['train_seconds'] == pytest.approx(30)


@pytest.mark.parametrize(
    ('trained', 'expected'),
    [(['old', 'new'], 'old; new'), (['old'], 'old; new'), ([], 'new')],
)
def test_revisions_of_training_and_measurement(run, monkeypatch, trained, expected):
    monkeypatch.setattr('mmgcnl.studies.worker.git_revision', lambda: 'new')
    run.state()['revisions'] = trained
    run.study, run.row, run.seed = SimpleNamespace(name='a'), SimpleNamespace(name='b'), 0
    run.attention, run.settings = 'auto', '01234567'
    worker = Worker(Execution(run.folder, run.folder, run.folder / 'results.csv'))
    assert worker._records(run, dict(mIoU=50.0))[0].revision == expected


def test_ports(monkeypatch):
    monkeypatch.setenv('PORT', '29600')
    assert [_port(slot) for slot in (0, 1)] == ['29600', '29601']
    monkeypatch.delenv('PORT')
    with socket.socket() as listener:
        listener.bind(('', int(_port(0))))
