"""The record that stands beside a measurement."""

import subprocess
from pathlib import Path

import pytest
import torch

from mmgcnl.utils.provenance import device_name, git_revision, provenance

ROOT = Path(__file__).parents[2]


def test_revision_is_the_checkouts():
    if not (ROOT / '.git').exists():
        pytest.skip('not a checkout')
    head = subprocess.check_output(['git', '-C', str(ROOT), 'rev-parse', 'HEAD'], text=True)
    command = ['git', '-C', str(ROOT), 'status', '--porcelain', '--']
    command += ['mmgcnl', 'tools', 'configs']
    changed = subprocess.check_output(command, text=True).strip()
    revision = git_revision()
    assert head.startswith(revision.removesuffix('-dirty'))
    assert revision.endswith('-dirty') == bool(changed)


def test_no_revision_without_a_checkout(monkeypatch):
    monkeypatch.setattr(Path, 'exists', lambda path: False)
    assert git_revision() is None


def test_versions_and_machine():
    found = provenance()
    assert found['torch'] == torch.__version__
    assert found['revision'] == git_revision()
    assert found['hardware'] == device_name('cpu') != ''
    assert found['cores'] >= 1
