import json
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmgcnl.datasets import loading
from mmgcnl.datasets.inspection import inspect_data
from tests.builders import (
    draw_camvid,
    draw_coco_instances,
    draw_coco_panoptic,
    draw_squares,
    write_detector,
    write_segmentor,
)


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


@pytest.fixture
def root(tmp_path):
    draw_squares(tmp_path / 'squares')
    return tmp_path / 'squares'


@pytest.fixture
def detector(tmp_path, root) -> Config:
    """Trained on boxes.json, validated and tested on the copy val.json."""
    content = json.loads((root / 'boxes.json').read_text())
    for name, part in (('boxes', slice(3)), ('val', slice(3, 5))):  # one box per image
        own = {key: content[key][part] for key in ('images', 'annotations')}
        (root / f'{name}.json').write_text(json.dumps({**content, **own}))
    cfg = Config.fromfile(write_detector(tmp_path / 'detector.py', root))
    for split in ('val', 'test'):
        cfg[f'{split}_dataloader'].dataset.ann_file = 'val.json'
    return cfg


@pytest.fixture
def segmentor(tmp_path, root) -> Config:
    return Config.fromfile(write_segmentor(tmp_path / 'segmentor.py', root))


def change(path, function):
    content = json.loads(path.read_text())
    function(content)
    path.write_text(json.dumps(content))


def change_second(root, **changes):
    """Change the second annotation of the training data."""
    change(root / 'boxes.json', lambda content: content['annotations'][1].update(changes))


def look(cfg):
    """All faults and all notes."""
    init_default_scope(cfg.default_scope)
    reports = list(inspect_data(cfg))
    return tuple(
        [f'{r.name}: {line}' for r in reports for line in getattr(r, kind)]
        for kind in ('faults', 'notes')
    )


@pytest.fixture
def start(monkeypatch):
    """Build the data of a split as a training does; return its warnings."""

    def build(cfg, split='train'):
        warnings: list[str] = []
        monkeypatch.setattr(loading, 'print_log', lambda text, *args: warnings.append(text))
        init_default_scope(cfg.default_scope)
        loading.build_dataloader(cfg[f'{split}_dataloader'])
        return warnings

    return build
