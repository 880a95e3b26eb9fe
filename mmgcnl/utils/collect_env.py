"""The environment, for a bug report: ``python -m mmgcnl.utils.collect_env``."""

from importlib.metadata import packages_distributions

from mmengine.utils.dl_utils import collect_env as collect_base_env

from mmgcnl.version import __version__

from .libraries import installed_version
from .provenance import git_revision


def collect_env() -> dict[str, str]:
    """Collect what mmengine collects, and the versions of the libraries and of mmgcnl.

    The distributions are named because those of OneDL and OpenMMLab install the same
    packages: two names for one package mean that one has overwritten the other.
    """
    env = collect_base_env()
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
