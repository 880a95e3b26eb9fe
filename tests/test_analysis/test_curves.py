"""Curves from the logs of trainings."""

from pathlib import Path

import pytest

from mmgcnl.analysis.curves import labels_of, read_curve
from tests.builders import write_logs


@pytest.fixture
def work_dir(tmp_path: Path) -> Path:
    write_logs(tmp_path)
    return tmp_path


def test_curve_of_the_latest_training(work_dir):
    assert read_curve(work_dir, 'loss') == ([10, 20], [2.0, 1.0])
    assert read_curve(work_dir, 'aAcc') == ([10], [50.0])


def test_labels_tell_the_trainings_apart():
    assert labels_of([Path('runs/nl'), Path('runs/gcnl')]) == ['nl', 'gcnl']
    folders = [Path('runs/nl/seed0'), Path('runs/gcnl/seed0')]
    assert labels_of(folders) == ['nl/seed0', 'gcnl/seed0']
