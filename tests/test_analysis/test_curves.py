"""Curves from the logs of trainings."""

import json
from pathlib import Path

import pytest
from PIL import Image

from mmgcnl.analysis.curves import draw_curves, read_curve


@pytest.fixture
def work_dir(tmp_path: Path) -> Path:
    """Two trainings, the later one with an evaluation between its iterations."""
    lines = {
        '20260101_000000': [dict(loss=9.0, step=1)],
        '20260102_000000': [
            dict(loss=2.0, step=10),
            dict(aAcc=50.0, step=10),
            dict(loss=1.0, step=20),
        ],
    }
    for name, entries in lines.items():
        path = tmp_path / name / 'vis_data' / 'scalars.json'
        path.parent.mkdir(parents=True)
        path.write_text(''.join(json.dumps(entry) + '\n' for entry in entries))
    return tmp_path


def test_curve_of_the_latest_training(work_dir):
    assert read_curve(work_dir, 'loss') == ([10, 20], [2.0, 1.0])
    assert read_curve(work_dir, 'aAcc') == ([10], [50.0])


def test_picture(work_dir, tmp_path):
    path = tmp_path / 'curves.png'
    draw_curves([work_dir, work_dir], ['loss', 'aAcc', 'loss'], path)
    assert Image.open(path).size == (3 * 450, 300)


@pytest.mark.parametrize(
    ('folder', 'key', 'message'),
    [
        ('.', 'mIoU', "has no 'mIoU'; it has aAcc, loss, step"),
        ('none', 'loss', 'no work dir'),
    ],
)
def test_faults(work_dir, folder, key, message):
    with pytest.raises(ValueError, match=message):
        read_curve(work_dir / folder, key)
