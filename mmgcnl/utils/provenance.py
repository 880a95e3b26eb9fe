"""What a measurement was made with: revision, versions, machine."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import torch

from mmgcnl.version import __version__

from .libraries import installed_version


def git_revision() -> str | None:
    """The commit of the checkout that mmgcnl is imported from.

    Returns:
        Ten digits or more, followed by '-dirty' when files in mmgcnl, tools or configs
        differ from the commit: results do not depend on others. None without git, or where
        mmgcnl is not imported from a checkout.
    """
    root = Path(__file__).parents[2]
    if not (root / '.git').exists():
        return None

    def git(*words: str) -> str:
        command = ['git', '-C', str(root), *words]
        output = subprocess.check_output(command, text=True, stderr=subprocess.DEVNULL)
        return output.strip()

    try:
        head = git('rev-parse', '--short=10', 'HEAD')
        changed = git('status', '--porcelain', '--', 'mmgcnl', 'tools', 'configs')
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ('-dirty' if changed else '')


def provenance(device: str = 'cpu') -> dict[str, str | int | None]:
    """Revision, versions and machine; ``device``, 'cpu' or 'cuda', is what was measured."""
    versions = {
        name: installed_version(name) for name in ('mmcv', 'mmengine', 'mmdet', 'mmseg')
    }
    return dict(
        mmgcnl=__version__,
        revision=git_revision(),
        python=platform.python_version(),
        torch=torch.__version__,
        **versions,
        hardware=device_name(device),
        cores=os.cpu_count(),
    )


def device_name(device: str) -> str:
    """The name of the GPU, or of the processor for ``device='cpu'``."""
    if device == 'cuda':
        return torch.cuda.get_device_name()
    cpuinfo = Path('/proc/cpuinfo')
    if cpuinfo.is_file():
        fields: dict[str, str] = {}
        for line in cpuinfo.read_text().splitlines():
            key, _, value = line.partition(':')
            fields.setdefault(key.strip(), value.strip())
        if 'model name' in fields:
            numbers = [fields.get(key) for key in ('cpu family', 'model', 'stepping')]
            if None in numbers:
                return fields['model name']
            # Hypervisors shorten the name; family and model still tell generations apart.
            return f'{fields["model name"]}, family {"/".join(map(str, numbers))}'
    return platform.processor() or 'unknown CPU'
