"""Configs on tiny drawn data, and ways to call the tools."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.builders import (
    ROOT,
    call_tool,
    draw_squares,
    write_detector,
    write_segmentor,
)

TOOLS = ROOT / 'tools'


@pytest.fixture(scope='session')
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of 5 images (32, 32) with one bright square each, label maps and boxes."""
    root = tmp_path_factory.mktemp('squares')
    draw_squares(root)
    return root


@pytest.fixture
def segmentor(tmp_path: Path, squares: Path) -> Path:
    """Path of a segmentor's config."""
    return write_segmentor(tmp_path / 'segmentor.py', squares)


@pytest.fixture
def detector(tmp_path: Path, squares: Path) -> Path:
    """Path of a detector's config."""
    return write_detector(tmp_path / 'detector.py', squares)


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Call main() of tools/<name>.py in this process, as if it were a new one."""
    monkeypatch.setenv('LOCAL_RANK', '0')  # what main() sets goes with the test
    return call_tool


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., str]:
    """Run a command away from the checkout and return what it prints."""

    def run(*command: object, **env: object) -> str:
        result = subprocess.run(
            [str(word) for word in command],
            cwd=tmp_path,
            env={
                **os.environ,
                'CUDA_VISIBLE_DEVICES': '',
                'OMP_NUM_THREADS': '1',
                'PYTHON': sys.executable,
                'PYTHONPATH': f'{TOOLS.parent}:{tmp_path}',
                **{key: str(value) for key, value in env.items()},
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        assert result.returncode == 0, result.stdout
        return result.stdout

    return run
