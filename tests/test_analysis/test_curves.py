"""Curves from the logs of trainings."""

from pathlib import Path

import pytest
from PIL import Image

from mmgcnl.analysis.curves import draw_curves, labels_of, read_curve
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


def test_picture(work_dir, tmp_path):
    path = tmp_path / 'new/curves.png'
    draw_curves([work_dir, work_dir], ['loss', 'aAcc', 'loss'], path)
    assert Image.open(path).size == (3 * 450, 300)


@pytest.mark.parametrize(
    ('folder', 'key', 'message'),
    [
        ('.', 'mIoU', "has logged no 'mIoU'; it has aAcc, loss, step"),
        ('none', 'loss', 'not the work dir of'),
    ],
)
def test_faults(work_dir, folder, key, message):
    with pytest.raises(ValueError, match=message):
        read_curve(work_dir / folder, key)
