"""Configs of installed libraries as bases."""

import pytest
from mmengine.config import Config

import mmgcnl  # noqa: F401  it is what makes this work with OneDL's mmseg


def test_bases_of_mmseg(tmp_path):
    pytest.importorskip('mmseg')
    path = tmp_path / 'config.py'
    path.write_text("_base_ = 'mmseg::fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024.py'\n")
    assert Config.fromfile(path).model.decode_head.type == 'FCNHead'
