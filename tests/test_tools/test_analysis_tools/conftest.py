"""Models with random weights whose attention can be looked at."""

import pytest

from tests.builders import save_random_weights, write_detector, write_segmentor

# A map of 4 x 4 cells: with one cell there would be nothing to measure.
LARGE_MAP = dict(strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4))


@pytest.fixture
def segmentor(tmp_path, squares):
    """With the map of :data:`LARGE_MAP`."""
    return write_segmentor(tmp_path / 'segmentor.py', squares, LARGE_MAP)


@pytest.fixture
def detector(tmp_path, squares):
    """With a map of 8 x 8 cells and a key for every second in each direction."""
    return write_detector(tmp_path / 'detector.py', squares, scale=(256, 256))


@pytest.fixture
def trained():
    """Save random weights for a config, and return the path of the checkpoint."""
    return save_random_weights
