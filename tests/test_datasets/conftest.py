from pathlib import Path

import pytest

from tests.builders import draw_camvid, draw_coco_instances, draw_coco_panoptic


@pytest.fixture
def camvid_root(tmp_path: Path) -> Path:
    """Three drawn images a split, 48x32, in CamVidDataset's layout."""
    draw_camvid(tmp_path / 'camvid')
    return tmp_path / 'camvid'


@pytest.fixture
def coco_root(tmp_path: Path) -> Path:
    """Two drawn images a split, 64x48, a box in each, in COCO's layout."""
    draw_coco_instances(tmp_path / 'coco')
    return tmp_path / 'coco'


@pytest.fixture
def panoptic_root(tmp_path: Path) -> Path:
    """An image a split, 60x40, in COCO's layout: two people, a crowd, sky, void."""
    draw_coco_panoptic(tmp_path / 'coco')
    return tmp_path / 'coco'


@pytest.fixture(scope='session')
def shared_data() -> Path:
    """Real images beside the checkout."""
    path = Path(__file__).parents[3] / 'shared' / 'data'
    if not path.is_dir():
        pytest.skip(f'no real images in {path}')
    return path
