"""The environment, for a bug report: ``python -m mmgcnl.utils.collect_env``."""

import sys
from importlib.metadata import packages_distributions

import torch

from mmgcnl.version import __version__

from .libraries import installed_version
from .provenance import git_revision


def collect_env() -> dict[str, str]:
    """Collect what mmengine, if installed, collects, and the versions of the libraries.

    The distributions are named because those of OneDL and OpenMMLab install the same
    packages: two names for one package mean that one has overwritten the other.
    """
    if installed_version('mmengine'):
        from mmengine.utils.dl_utils import collect_env as collect_base_env

        env = collect_base_env()
    else:
        env = dict(Python=sys.version, PyTorch=torch.__version__, MMEngine='not installed')
    distributions = packages_distributions()
    for name in ('mmcv', 'mmdet', 'mmseg'):
        version = installed_version(name)
        origin = ', '.join(sorted(set(distributions.get(name, ['source']))))
        env[name] = f'{version} ({origin})' if version else 'not installed'
    revision = git_revision()
    env['mmgcnl'] = __version__ + (f'+{revision}' if revision else '')
    return env


if __name__ == '__main__':
    for name, value in collect_env().items():
        print(f'{name}: {value}')
