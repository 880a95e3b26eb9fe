"""Where a result comes from: revision, versions, and how the attention is computed."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mmengine.config import Config

from mmgcnl.version import __version__

_LIBRARIES = ('torch', 'numpy', 'mmengine', 'mmcv', 'mmseg', 'mmdet')


def versions() -> str:
    """Of Python and the libraries, as they are named in the CSV file."""
    found = [f'python {platform.python_version()}']
    for name in _LIBRARIES:
        module = sys.modules.get(name)
        number = getattr(module, '__version__', None)
        if number is None:
            try:
                number = version(name)
            except PackageNotFoundError:
                continue
        found.append(f'{name} {number}')
    return '; '.join(found)


def revision(root: Path) -> str:
    """Of the code: the git revision, with ``+changes`` where files differ from it."""

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
