"""The data roots of the configs, and what they change in those they inherit."""

from pathlib import Path
from typing import Any

import mmdet
import pytest
from mmengine.config import Config

EBFPN = sorted(map(str, Path('configs/ebfpn').glob('*_r50_fpn_ebfpn_1x_coco.py')))


@pytest.mark.parametrize('path', EBFPN)
def test_ebfpn_adds_the_neck_and_nothing_else(path):
    cfg = Config.fromfile(path)
    name = Path(path).stem.replace('_ebfpn', '')
    folder = name.split('_')[0].replace('-', '_').replace('cascade_mask', 'cascade')
    base = Config.fromfile(get_mmdet_config(f'{folder}/{name}'))
    fpn, ebfpn = cfg.model.neck
    assert fpn == base.model.neck
    # Stride 16 is refined: level 2, or 1 where the pyramid begins at stride 8.
    level = dict(refine_level=1) if fpn.get('start_level') else {}
    xavier = dict(type='Xavier', layer='Conv2d', distribution='uniform')
    assert ebfpn == dict(
        type='EBFPN', in_channels=256, num_levels=5, init_cfg=xavier, **level
    )
    assert cfg.optim_wrapper.optimizer.lr == 0.01
    base.model.neck = cfg.model.neck
    base.optim_wrapper.optimizer.lr = 0.01
    for key in ('model', 'optim_wrapper', 'param_scheduler', 'train_cfg'):
        assert without_scope(cfg[key]) == base[key]


def without_scope(node: Any) -> Any:
    """``node`` less what mmengine adds to bases that are in another package."""
    if isinstance(node, dict):
        return {k: without_scope(v) for k, v in node.items() if k != '_scope_'}
    if isinstance(node, list):
        return [without_scope(item) for item in node]
    return node


def get_mmdet_config(name: str) -> str:
    return str(Path(mmdet.__file__).parent / '.mim' / 'configs' / f'{name}.py')


@pytest.mark.parametrize('path', EBFPN)
def test_coco_root(path, coco_root, monkeypatch):
    monkeypatch.delenv('COCO_ROOT', raising=False)
    assert roots(Config.fromfile(path)) == {'data/coco'}
    monkeypatch.setenv('COCO_ROOT', str(coco_root))
    cfg = Config.fromfile(path)
    assert roots(cfg) == {str(coco_root)}
    for split in ('val', 'test'):
        assert Path(cfg[f'{split}_evaluator'].ann_file).is_file()


def roots(cfg: Config) -> set[str]:
    loaders = (cfg[f'{split}_dataloader'] for split in ('train', 'val', 'test'))
    return {loader.dataset.data_root for loader in loaders}
