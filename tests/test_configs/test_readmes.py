"""The README of each config folder: current, complete, and with commands that fit."""

from pathlib import Path

import pytest
from mmengine.config import Config

from mmgcnl.analysis.config_readmes import describe_training, render_readmes

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='module')
def pages():
    return render_readmes(ROOT)


def test_are_current(pages):
    for path, content in pages.items():
        assert path.read_text() == content, (
            f'{path}: run tools/analysis_tools/make_config_readmes.py'
        )


def test_every_config_has_a_row(pages):
    configs = list((ROOT / 'configs').glob('[!_]*/*.py'))
    assert configs
    for path in configs:
        assert f'| [{path.stem}]({path.name}) |' in pages[path.parent / 'README.md']


@pytest.mark.parametrize(
    'config, expected',
    [
        ('pascal_context/nl_r50-d8_4xb2-50k_pascal-context-59-480x480', (4, 2, '50,000')),
        ('camvid/gcnl_r50-d8_1xb8-20k_camvid-360x480', (1, 8, '20,000')),
        ('ebfpn/mask-rcnn_r50_fpn_ebfpn_3x_coco', (8, 2, '36 epochs')),
    ],
)
def test_training_is_read_from_the_config(config, expected):
    gpus, batch, length = describe_training(Config.fromfile(ROOT / f'configs/{config}.py'))
    assert (gpus, batch) == expected[:2]
    assert length.startswith(expected[2])


def test_figures_are_those_of_the_tables(pages):
    page = pages[ROOT / 'configs/ebfpn/README.md']
    (row,) = (line for line in page.splitlines() if '[mask-rcnn_r50_fpn_1x_coco]' in line)
    assert 'Table 4, coco_val2017: box AP 37.1, mask AP 34.1' in row
    assert 'Table 8, coco_test_dev: box AP 37.2, mask AP 34.1' in row
    assert row.endswith('| 800x1280 | 44.18 | 275.58 |')
