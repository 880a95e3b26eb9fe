"""What a config with mmseg's TIMMBackbone says when timm or its weights are missing."""

from types import SimpleNamespace

import pytest
from mmseg.models.backbones import timm_backbone

from mmgcnl.apis import build_model
from mmgcnl.engine import ConfigError, build_runner
from tests.builders import forget_instances


@pytest.fixture
def cfg(cfg):
    cfg.model.backbone = dict(type='TIMMBackbone', model_name='resnet18')
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
