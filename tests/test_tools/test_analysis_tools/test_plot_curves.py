"""The command line of tools/analysis_tools/plot_curves.py."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from tests.builders import write_logs

tool = SimpleNamespace(**runpy.run_path('tools/analysis_tools/plot_curves.py'))


@pytest.fixture
def work_dir(tmp_path: Path) -> Path:
    write_logs(tmp_path)
    return tmp_path


def test_picture(work_dir, tmp_path):
    out = tmp_path / 'curves.png'
    tool.main([str(work_dir), '--keys', 'loss', 'aAcc', '--out', str(out)])
    assert Image.open(out).size == (900, 300)


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (['--keys', 'mIoU'], "has logged no 'mIoU'; it has aAcc, loss, step"),
        ([], 'not the work dir of'),
    ],
)
def test_faults(work_dir, capsys, args, message):
    folder = work_dir if args else work_dir / 'nowhere'
    with pytest.raises(SystemExit):
        tool.main([str(folder), *args])
    assert message in capsys.readouterr().err
