"""Where a result comes from: revision, versions, and how the attention is computed."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from mmengine.config import Config

from mmgcnl.utils.provenance import provenance
from mmgcnl.version import __version__

_VERSIONS = ('python', 'torch', 'mmengine', 'mmcv', 'mmseg', 'mmdet')


def versions() -> str:
    """Of Python and the libraries, as they are named in the CSV file."""
    found = provenance()
    return '; '.join(f'{name} {found[name]}' for name in _VERSIONS if found.get(name))


def revision(root: Path) -> str:
    """Of the code: the git revision, with ``+changes`` where files differ from it.

    Only files that decide a result count: a CSV file in the checkout changes with each run.
    """

    def git(*words: str) -> subprocess.CompletedProcess:
        return subprocess.run(['git', '-C', root, *words], capture_output=True, text=True)

    try:
        head = git('rev-parse', '--short=10', 'HEAD')
    except OSError:
        return f'v{__version__}'
    if head.returncode:
        return f'v{__version__}'
    changed = git('status', '--porcelain', '--', 'mmgcnl', 'tools', 'configs').stdout
    return head.stdout.strip() + ('+changes' if changed.strip() else '')


def implementation(cfg: Config) -> str:
    """How the attention of our blocks is asked to be computed."""
    asked = os.environ.get('MMGCNL_ATTENTION')
    found = re.findall(r"'implementation': '(\w+)'", str(cfg.model.to_dict()))
    return asked or (found[0] if found else 'auto')
