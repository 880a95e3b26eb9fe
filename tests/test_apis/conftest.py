from pathlib import Path

import pytest

from tests.builders import draw_images


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Folder of three images of different sizes."""
    draw_images(tmp_path / 'images')
    return tmp_path / 'images'
