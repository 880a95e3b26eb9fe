"""Every command of docs/custom_data.md, on drawn data, with reduced models."""

import json
import re
import shlex
from pathlib import Path

import mmcv
import numpy as np
import pytest
from mmengine.config import Config

from tests.builders import ROOT, call_tool
from tests.test_configs.conftest import reduce

PAGE = (ROOT / 'docs/custom_data.md').read_text()


def section(heading: str) -> str:
    return PAGE.split(f'\n## {heading}\n')[1].split('\n## ')[0]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf'```{language}\n(.*?)```', text, re.DOTALL)


def draw(root: Path) -> None:
    """Draw a disc or square an image, in the layouts of the page."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:48, :64]
    coco: dict = dict(images=[], annotations=[])
    coco['categories'] = [dict(id=5, name='disc'), dict(id=9, name='square')]
    for i in range(10):
        label = np.zeros((48, 64), np.uint8)
        left, top = 8 + 2 * i, 4 + i
        if i % 2:
            label[top : top + 20, left : left + 20] = 2
        else:
            label[(x - left - 10) ** 2 + (y - top - 10) ** 2 < 100] = 1
        pixels = rng.integers(0, 60, (48, 64, 3)) + 90 * label[..., None]
        split = 'val' if i >= 8 else 'train'
        for path in (f'images/{split}', split):
            mmcv.imwrite(pixels.astype(np.uint8), str(root / path / f'{i}.jpg'))
        mmcv.imwrite(label, str(root / f'labels/{split}/{i}.png'))
        box = [left, top, left + 20, top, left + 20, top + 20, left, top + 20]
        coco['images'].append(dict(id=i, file_name=f'{i}.jpg', width=64, height=48))
        coco['annotations'].append(
            dict(
                id=i + 1,
                image_id=i,
                category_id=5 if i % 2 == 0 else 9,
                bbox=[left, top, 20, 20],
                area=400,
                iscrowd=0,
                segmentation=[box],
            )
        )
    for split, first, last in (('train', 0, 8), ('val', 8, 10)):
        part = dict(coco, images=coco['images'][first:last])
        part['annotations'] = coco['annotations'][first:last]
        (root / f'{split}.json').write_text(json.dumps(part))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the data and the configs of the page, the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('LOCAL_RANK', '0')
    draw(tmp_path / 'data/mine')
    for code in blocks(PAGE, 'python'):
        path = Path(re.match(r'# (\w+\.py)\n', code)[1])
        path.write_text(code)
        cfg = Config.fromfile(path)
        reduce(cfg)
        cfg.default_hooks.checkpoint.interval = 1 if 'max_epochs' in cfg.train_cfg else 2
        cfg.dump(path)
    return tmp_path


def run_commands(text: str) -> list[str]:
    """Run the commands of a page that call our tools; return the tools' names."""
    names = []
    for line in ''.join(blocks(text, 'shell')).splitlines():
        if not line.startswith('python tools/'):
            continue
        line = re.sub(r'\$\(cat (\S+)\)', lambda m: Path(m[1]).read_text().strip(), line)
        _, tool, *arguments = shlex.split(line)
        names.append(Path(tool).stem)
        call_tool(tool.removeprefix('tools/').removesuffix('.py'), *arguments)
    return names


def test_segmentation(folder, capsys):
    assert run_commands(section('Segmentation')) == ['check_data', 'train', 'test', 'infer']
    out = capsys.readouterr().out
    assert 'no fault in 10 images' in out and 'note:' not in out
    assert sorted(p.name for p in Path('results/labels').iterdir()) == ['8.png', '9.png']
    assert run_commands(section('Few images')) == ['train']


def test_detection(folder, capsys):
    names = run_commands(section('Detection'))
    assert names == ['check_data', 'train', 'test', 'infer']
    out = capsys.readouterr().out
    assert 'no fault in 10 images' in out and 'note:' not in out
    content = json.loads(Path('results/instances.json').read_text())
    assert [c['name'] for c in content['categories']] == ['disc', 'square']
