"""The libraries that mmgcnl builds on: which are installed, and in which version."""

import gc
import io
import runpy
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, NoReturn


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
        '1.2.2',
        '1.5',
        'onedl-mmsegmentation==1.4.2',
        # It imports two packages that it does not require.
        'mmsegmentation==1.2.2 ftfy regex',
    ),
}

#: What building the packages of both families needs in the environment, besides torch.
BUILD_REQUIREMENTS = "ninja numpy psutil 'setuptools<81' wheel"


def installed_version(name: str) -> str | None:
    """Find the version of the package that ``import name`` would import, or None.

    It is read from the package's version.py, whatever distribution the package came from.
    The package itself is not imported: mmdet and mmseg take seconds.
    """
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        return None
    return runpy.run_path(str(Path(spec.origin).with_name('version.py')))['__version__']


def how_to_install(*names: str) -> str:
    """Format the commands that install some of :data:`LIBRARIES`, for an error message.

    They name the family of distributions, OneDL's or OpenMMLab's, that the environment
    has, OneDL's if it has none. mmcv is built again where its operators are needed: for
    mmdet, if it has none, and for another torch.
    """
    family = _installed_family() or 'onedl'
    required = {name: getattr(LIBRARIES[name], family) for name in LIBRARIES}
    commands = []
    if 'torch' in names:
        commands.append(f'pip install {required["torch"]}')
    if names != ('torch',) or has_operators():
        commands.append(f'pip install {BUILD_REQUIREMENTS}')
    # In an environment of its own, pip would build mmcv without torch and its operators.
    install = 'pip install --no-build-isolation'
    if 'mmcv' in names or ('mmdet' if not has_operators() else 'torch') in names:
        # A distribution of another name would stay and share its files with the new one.
        # pip's cache may have a wheel without operators, or for another torch.
        commands.append('pip uninstall -y onedl-mmcv mmcv mmcv-lite mmcv-full')
        commands.append(f'{install} --no-cache-dir --no-deps {required["mmcv"]}')
    others = [required[name] for name in names if name not in ('torch', 'mmcv')]
    if others:
        commands.append(f'{install} {" ".join(others)}')
    return f'{" && ".join(commands)}; see docs/install.md'


def _installed_family() -> str | None:
    """The field of :class:`Library` whose distributions are installed, or None.

    Where both are, the one of mmdet or mmseg: each needs its own mmcv.
    """
    for name in ('mmdet', 'mmseg', 'mmcv', 'mmengine'):
        for family in ('onedl', 'openmmlab'):
            if _is_installed(getattr(LIBRARIES[name], family).partition('==')[0]):
                return family
    return None


def _is_installed(name: str) -> bool:
    try:
        return distribution(name) is not None
    except PackageNotFoundError:
        return False


@contextmanager
def needed_by(feature: str, *packages: str) -> Iterator[None]:
    """Import packages inside: of one that is missing, say which feature needs it.

    Raises:
        ImportError: One is missing; with the command that installs all of ``packages``.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ImportError(
            f'{feature} needs {error.name}: pip install {" ".join(packages)}'
        ) from error


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
            'mmcv has no operators, so mmdet does not work: no detection, instance or '
            'panoptic segmentation. mmcv-lite has none, and pip builds mmcv without them '
            f'when it cannot see torch. To build it with them: {how_to_install("mmcv")}',
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
def operators_optional() -> Iterator[None]:
    """Let OpenMMLab's mmseg be imported inside, although mmcv has no operators.

    mmseg 1.2.2 imports ``mmcv.ops`` for two of its heads whatever is used; OneDL's does
    not. Operators that are called then raise a RuntimeError.
    """
    name = 'mmcv._ext'
    needed = (installed_version('mmseg') or '').startswith('1.2.') and not has_operators()
    if not needed or name in sys.modules:
        yield
        return
    stand_in = ModuleType(name)
    stand_in.__getattr__ = _missing_operator  # type: ignore[method-assign]
    sys.modules[name] = stand_in
    try:
        yield
    finally:
        del sys.modules[name]


def _missing_operator(name: str) -> Callable[..., NoReturn]:
    if name.startswith('__'):
        raise AttributeError(name)

    def operator(*args: Any, **kwargs: Any) -> NoReturn:
        raise RuntimeError(
            f'mmcv has no operators, and {name} is one: {how_to_install("mmcv")}'
        )

    return operator


@contextmanager
def no_collections() -> Iterator[None]:
    """Collect no garbage inside: imports leave little, and the search takes a second."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


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
