"""The environment for a bug report: ``python -m mmgcnl.utils.collect_env``."""

import subprocess
from importlib.metadata import packages_distributions
from pathlib import Path

from mmengine.utils.dl_utils import collect_env as collect_base_env

import mmgcnl

from .libraries import installed_version


def _git_hash() -> str:
    """Of the checkout that mmgcnl is imported from; empty for an installed wheel."""
    root = Path(mmgcnl.__file__).parents[1]
    if not (root / '.git').exists():
        return ''
    command = ['git', '-C', str(root), 'rev-parse', '--short=7', 'HEAD']
    try:
        return '+' + subprocess.check_output(command, text=True).strip()
    except (OSError, subprocess.CalledProcessError):
        return '+unknown'


def collect_env() -> dict[str, str]:
    """What MMEngine collects, and the versions of the libraries and of mmgcnl.

    The distributions are named because OneDL's and OpenMMLab's install the same
    packages: two names after one package mean that one has overwritten the other.
    """
    env = collect_base_env()
    distributions = packages_distributions()
    for name in ('mmcv', 'mmdet', 'mmseg'):
        version = installed_version(name)
        origin = ', '.join(sorted(set(distributions.get(name, ['source']))))
        env[name] = f'{version} ({origin})' if version else 'not installed'
    env['mmgcnl'] = mmgcnl.__version__ + _git_hash()
    return env


if __name__ == '__main__':
    for name, value in collect_env().items():
        print(f'{name}: {value}')
