"""The libraries that mmgcnl builds on: which are installed, and in which version."""

import io
import runpy
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple


class Library(NamedTuple):
    """One library and the versions of it that mmgcnl was tested with."""

    minimum: str
    untested: str  # the first version above the tested ones
    onedl: str  # what to install: the OneDL build, or
    openmmlab: str  # OpenMMLab's own release


# pyproject.toml requires none of these, because the distributions of OneDL and of
# OpenMMLab have different names but install the same packages over each other.
LIBRARIES = {
    'torch': Library('2.4', '2.14', 'torch==2.13.0', 'torch==2.13.0'),
    'mmengine': Library('0.10.7', '0.11', 'onedl-mmengine==0.10.12', 'mmengine==0.10.7'),
    'mmcv': Library('2.1.0', '2.4', 'onedl-mmcv==2.3.6', 'mmcv==2.1.0'),
    'mmdet': Library('3.3.0', '3.6', 'onedl-mmdetection==3.5.1', 'mmdet==3.3.0'),
    'mmseg': Library(
        '1.2.2', '1.5', 'onedl-mmsegmentation==1.4.2', 'mmsegmentation==1.2.2'
    ),
}

#: What compiling mmcv needs in the environment, besides torch.
BUILD_REQUIREMENTS = "pip install ninja numpy psutil 'setuptools<81' wheel"
#: Builds mmcv with its operators, in an environment that has torch.
BUILD_MMCV = (
    f'{BUILD_REQUIREMENTS} && pip install --no-build-isolation --no-cache-dir '
    f'--force-reinstall --no-deps {LIBRARIES["mmcv"].onedl}'
)


def installed_version(name: str) -> str | None:
    """Find the version of the package that ``import name`` would import.

    It is read from the package's version.py, whatever distribution the package came from.
    The package itself is not imported: mmdet and mmseg take seconds.

    Args:
        name: Name of the package.

    Returns:
        The version, or None if there is no such package.
    """
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        return None
    return runpy.run_path(str(Path(spec.origin).with_name('version.py')))['__version__']


def how_to_install(*names: str) -> str:
    """Format the commands that install libraries, for an error message."""
    onedl = ' '.join(LIBRARIES[name].onedl for name in names)
    openmmlab = ' '.join(LIBRARIES[name].openmmlab for name in names)
    command = f'pip install {onedl}'
    if 'mmcv' in names:  # pip compiles it, and without torch only in part
        command = f'{BUILD_REQUIREMENTS} && pip install --no-build-isolation {onedl}'
    if openmmlab != onedl:
        command += f" (or OpenMMLab's {openmmlab})"
    return f'{command}; see docs/install.md'


def check_libraries() -> set[str]:
    """Check which of :data:`LIBRARIES` are installed, and their versions.

    Returns:
        Names of the installed libraries.

    Raises:
        ImportError: torch is missing, or a library is older than supported.

    Warns:
        UserWarning: A library is newer than tested.
    """
    if installed_version('torch') is None:
        raise ImportError(f'mmgcnl needs torch: {how_to_install("torch")}')
    # torch's own comparable version: packaging may not be installed.
    from torch.torch_version import TorchVersion

    installed = set()
    for name, library in LIBRARIES.items():
        version = installed_version(name)
        if version is None:
            continue
        installed.add(name)
        if TorchVersion(version) < library.minimum:
            raise ImportError(
                f'mmgcnl needs {name} {library.minimum} or later, found {version}: '
                f'{how_to_install(name)}'
            )
        if TorchVersion(version) >= library.untested:
            warnings.warn(
                f'mmgcnl is tested with {name} below {library.untested}, found {version}',
                stacklevel=3,
            )
    if 'mmdet' in installed and not has_operators():
        warnings.warn(
            'mmcv was built without its operators, so mmdet does not work: no detection, '
            'instance or panoptic segmentation. pip builds it like that when it cannot '
            f'see torch. To build it again: {BUILD_MMCV}; see docs/install.md',
            stacklevel=3,
        )
        installed.remove('mmdet')
    return installed


def has_operators() -> bool:
    """Whether the installed mmcv has its compiled operators, which mmdet needs."""
    spec = find_spec('mmcv')
    if spec is None or spec.origin is None:
        return False
    return any(Path(spec.origin).parent.glob('_ext*'))


def usable(name: str) -> bool:
    """Whether mmdet or mmseg is installed and imports."""
    return find_spec(name) is not None and (name != 'mmdet' or has_operators())


@contextmanager
def quiet_imports() -> Iterator[None]:
    """Drop what mmdet and mmseg say about their own optional packages on import.

    OneDL's builds print 'Could not import OneDL' several times and warn that
    faster_coco_eval is missing; mmcv without operators warns of one layer. mmgcnl needs
    none of them. Other output is kept.
    """
    buffer = io.StringIO()
    try:
        with warnings.catch_warnings(), redirect_stdout(buffer):
            warnings.filterwarnings('ignore', message='faster_coco_eval is not installed')
            warnings.filterwarnings('ignore', message='Fail to import ``MultiScale')
            yield
    finally:
        for line in buffer.getvalue().splitlines(keepends=True):
            if not line.startswith('Could not import OneDL'):
                sys.stdout.write(line)
