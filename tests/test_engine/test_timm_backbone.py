"""What a config with mmseg's TIMMBackbone says when timm or its weights are missing."""

from types import SimpleNamespace

import pytest
from mmengine.config import Config

pytest.importorskip('mmseg')

from mmseg.models.backbones import timm_backbone  # noqa: E402

from mmgcnl.apis import build_model  # noqa: E402
from mmgcnl.engine import ConfigError, build_runner  # noqa: E402
from tests.builders import draw_squares, forget_instances, write_segmentor  # noqa: E402


@pytest.fixture
def cfg(tmp_path):
    draw_squares(tmp_path)
    cfg = Config.fromfile(write_segmentor(tmp_path / 'config.py', tmp_path))
    cfg.model.backbone = dict(type='TIMMBackbone', model_name='resnet18')
    cfg.work_dir = str(tmp_path)
    forget_instances()
    return cfg


@pytest.mark.parametrize('build', [build_model, build_runner])
def test_missing_package_is_named(monkeypatch, cfg, build):
    monkeypatch.setattr(timm_backbone, 'timm', None)
    with pytest.raises(ConfigError, match='needs the package timm, .*: pip install timm'):
        build(cfg)


@pytest.mark.parametrize('build', [build_model, build_runner])
def test_missing_weights_name_the_option(monkeypatch, cfg, build):
    def create_model(**options):
        raise FileNotFoundError('cannot locate the file on the Hub.')

    monkeypatch.setattr(timm_backbone, 'timm', SimpleNamespace(create_model=create_model))
    message = r'Hub\. .* --cfg-options model\.backbone\.pretrained=False, .*checkpoint_path'
    with pytest.raises(ConfigError, match=message):
        build(cfg)
    cfg.model.backbone.pretrained = False
    forget_instances()
    with pytest.raises(FileNotFoundError):  # of no weights
        build(cfg)
