import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from mmgcnl.analysis.curves import read_curve

tool = SimpleNamespace(**runpy.run_path('tools/analysis_tools/plot_curves.py'))


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
    out = tmp_path / 'curves.png'
    tool.main([str(work_dir), '--keys', 'loss', 'aAcc', '--out', str(out)])
    assert Image.open(out).size == (900, 300)


@pytest.mark.parametrize(
    ('args', 'message'),
    [(['--keys', 'mIoU'], "has no 'mIoU'; it has aAcc, loss, step"), ([], 'no work dir')],
)
def test_faults(work_dir, capsys, args, message):
    folder = work_dir if args else work_dir / 'nowhere'
    with pytest.raises(SystemExit):
        tool.main([str(folder), *args])
    assert message in capsys.readouterr().err
