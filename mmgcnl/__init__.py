"""Non-local self-attention with global context and geometric priors.

``import mmgcnl`` registers what the installed libraries allow: everything with
mmengine, mmcv and mmseg; without mmseg, everything but the decode head and the
segmentation data sets. With torch alone there is :mod:`mmgcnl.layers`. Asking for a
missing part raises an ImportError that says what to install.

``mmgcnl.GCNonLocal2d`` is the block itself, :class:`mmgcnl.layers.GCNonLocal2d`, whatever
is installed. Configs name the block as ``type='GCNonLocal2d'``.
"""

from .utils.libraries import (
    check_libraries,
    how_to_install,
    no_collections,
    operators_optional,
    quiet_imports,
)
from .version import __version__

_installed = check_libraries()

from .layers import GCNonLocal2d  # noqa: E402, F401  torch is there

_needs = {
    'EBFPN': ('mmengine', 'mmcv'),
    'GCNLHead': ('mmengine', 'mmcv', 'mmseg'),
}
__all__ = ['GCNonLocal2d', '__version__']
__all__ += [name for name, needs in _needs.items() if _installed.issuperset(needs)]

with quiet_imports(), operators_optional(), no_collections():
    if 'EBFPN' in __all__:
        from . import datasets, evaluation  # noqa: F401  only for registration
        from .models import EBFPN  # noqa: F401
    if 'GCNLHead' in __all__:
        from .models import GCNLHead  # noqa: F401
if 'mmengine' in _installed:
    from .utils.bases import register_bases

    register_bases()


def __getattr__(name: str) -> None:
    missing = [need for need in _needs.get(name, ()) if need not in _installed]
    if missing:
        raise ImportError(f'{name} needs {", ".join(missing)}: {how_to_install(*missing)}')
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
