"""Versions of the libraries: tested, too old, too new."""

import re
import warnings

import pytest

from mmgcnl.utils import libraries
from tests.builders import ROOT

ONEDL = dict(torch='2.13.0+cpu', mmengine='0.10.12', mmcv='2.3.6', mmdet='3.5.1')
ONEDL['mmseg'] = '1.4.2'
OPENMMLAB = dict(torch='2.4.0', mmengine='0.10.7', mmcv='2.1.0', mmdet='3.3.0')
OPENMMLAB['mmseg'] = '1.2.2'
OLD = dict(torch='2.3.1', mmengine='0.10.6', mmcv='2.0.1', mmdet='3.2.0', mmseg='1.2.1')
NEW = dict(torch='2.14.0', mmengine='0.11.0', mmcv='2.10.0', mmdet='3.6.0', mmseg='2.0.0')


@pytest.mark.parametrize('versions', [ONEDL, OPENMMLAB])
def test_tested_versions_pass_silently(monkeypatch, versions):
    monkeypatch.setattr(libraries, 'installed_version', versions.get)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert libraries.check_libraries() == set(versions)


@pytest.mark.parametrize('family', ['onedl', 'openmmlab'])
@pytest.mark.parametrize(('name', 'version'), OLD.items())
def test_old_version_is_refused(monkeypatch, name, version, family):
    monkeypatch.setattr(libraries, 'installed_version', {**ONEDL, name: version}.get)
    monkeypatch.setattr(libraries, '_installed_family', lambda: family)
    with pytest.raises(ImportError, match=re.escape(version)) as error:
        libraries.check_libraries()
    assert name in str(error.value)
    assert getattr(libraries.LIBRARIES[name], family) in str(error.value)


@pytest.mark.parametrize(('name', 'version'), NEW.items())
def test_new_version_warns(monkeypatch, name, version):
    monkeypatch.setattr(libraries, 'installed_version', {**ONEDL, name: version}.get)
    with pytest.warns(UserWarning, match=f'{name} below .*, found {version}'):
        assert name in libraries.check_libraries()


def test_hints_name_the_pinned_versions():
    pinned = (ROOT / 'requirements' / 'mminstall.txt').read_text().splitlines()
    pinned += (ROOT / 'requirements' / 'torch.txt').read_text().splitlines()
    for library in libraries.LIBRARIES.values():
        assert library.onedl in pinned
