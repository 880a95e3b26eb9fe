"""Configs of installed libraries as bases."""

import pytest
from mmengine.config import Config

import mmgcnl  # noqa: F401  it is what makes this work with OneDL's mmseg


def test_bases_of_mmseg(tmp_path):
    pytest.importorskip('mmseg')
    path = tmp_path / 'config.py'
    path.write_text("_base_ = 'mmseg::fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024.py'\n")
    assert Config.fromfile(path).model.decode_head.type == 'FCNHead'


@pytest.mark.parametrize('exists', [True, False])
def test_bases_of_an_editable_installation(monkeypatch, tmp_path, exists):
    """OpenMMLab's mmengine takes it for a folder in site-packages, which is not there."""
    monkeypatch.setattr('mmengine.config.config.get_installed_path', lambda name: tmp_path)
    path = tmp_path / 'config.py'
    name = 'gcnl' if exists else 'no_such'
    path.write_text(f"_base_ = 'mmgcnl::probe/{name}_probe.py'\n")
    if exists:
        assert Config.fromfile(path).model.decode_head.type == 'GCNLHead'
    else:
        with pytest.raises(FileNotFoundError, match='configs/probe/no_such_probe.py'):
            Config.fromfile(path)
