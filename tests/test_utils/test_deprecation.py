"""Old names work for one version, with a warning that names the new place."""

import sys
from importlib import import_module
from types import ModuleType

import pytest

import mmgcnl
from mmgcnl.utils.deprecation import moved_names

MOVED = {
    'mmgcnl.conversion.convert_state_dict': 'mmgcnl.deployment.convert_state_dict',
    'mmgcnl.conversion.largest_difference': 'mmgcnl.deployment.largest_difference',
    'mmgcnl.datasets.ProbeMetric': 'mmgcnl.evaluation.ProbeMetric',
    'mmgcnl.datasets.panoptic.id2rgb': 'mmgcnl.structures.id2rgb',
    'mmgcnl.datasets.panoptic.read_segment_ids': 'mmgcnl.structures.read_segment_ids',
    'mmgcnl.engine.check_file': 'mmgcnl.utils.cli.check_file',
    'mmgcnl.models.GCNonLocal2d': 'mmgcnl.models.GCNonLocal2dAdapter',
}


@pytest.mark.parametrize('old', MOVED)
def test_moved(old):
    module, _, name = old.rpartition('.')
    with pytest.warns(DeprecationWarning, match=f'{old} is deprecated .* {MOVED[old]}'):
        found = getattr(import_module(module), name)
    place, _, new_name = MOVED[old].rpartition('.')
    assert found is getattr(import_module(place), new_name)


def test_warning_is_at_the_caller():
    with pytest.warns(DeprecationWarning) as warned:
        mmgcnl.engine.check_file  # noqa: B018
    assert warned[0].filename == __file__


def test_other_names_are_missing(monkeypatch):
    module = ModuleType('old')
    module.__getattr__ = moved_names('old', {'join': 'os.path.join'})
    monkeypatch.setitem(sys.modules, 'old', module)
    with pytest.raises(AttributeError, match="module 'old' has no attribute 'split'"):
        module.split  # noqa: B018
    assert not hasattr(module, 'split')


def test_the_block_is_one_thing():
    assert mmgcnl.GCNonLocal2d is mmgcnl.layers.GCNonLocal2d
