"""Old names that keep working for one version."""

import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def moved_names(module: str, moved: Mapping[str, str]) -> Callable[[str], Any]:
    """Make the ``__getattr__`` of a module from which names have moved.

    The new places are given as strings and imported when asked for, so that a module can
    point to one that imports it.

    Args:
        module: The module's ``__name__``.
        moved: For each old name the full path of the new one, for example
            ``{'ProbeMetric': 'mmgcnl.evaluation.ProbeMetric'}``.

    Returns:
        A function that returns the object under its new name and issues a
        DeprecationWarning, and raises AttributeError for every other name.
    """

    def __getattr__(name: str) -> Any:
        if name not in moved:
            raise AttributeError(f'module {module!r} has no attribute {name!r}')
        warnings.warn(
            f'{module}.{name} is deprecated and will be removed in the next version: '
            f'use {moved[name]}',
            DeprecationWarning,
            stacklevel=2,
        )
        place, _, new_name = moved[name].rpartition('.')
        return getattr(import_module(place), new_name)

    return __getattr__
