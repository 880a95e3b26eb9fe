"""What the ``type`` of a config means, however it is written.

Configs name a class by its name, 'CocoDataset', with a scope, 'mmdet.CocoDataset', or by
the whole path, as mmengine writes new-style configs into the work dir. New-style configs
themselves, those with ``read_base()``, have the class.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config
from mmengine.registry import MODELS, VISUALIZERS, Registry


def class_of(config: Mapping[str, Any], registry: Registry) -> Any:
    """Find what ``registry.build(config)`` would call, in the config's or default scope.

    Returns:
        A class, or what else ``type`` is; None if there is nothing of that name.
    """
    kind = config.get('type')
    if not isinstance(kind, str):
        return kind
    with registry.switch_scope_and_registry(config.get('_scope_')) as own:
        try:
            return own.get(kind)
        except RuntimeError:  # mmengine took it for a path, and cannot import that
            return None


def parameters_of(kind: Any) -> set[str] | None:
    """Names of the arguments that a class or function takes; None if it takes any."""
    names: set[str] = set()
    makers = [kind]
    if inspect.isclass(kind):
        makers = [c.__init__ for c in kind.__mro__ if '__init__' in vars(c)]  # type: ignore
    for maker in makers:
        try:
            parameters = inspect.signature(maker).parameters.values()
        except (TypeError, ValueError):  # of a class in C
            return None
        several = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        names |= {p.name for p in parameters if p.kind not in several}
        # What a class passes on as **kwargs, one of its bases takes.
        if not any(p.kind == p.VAR_KEYWORD for p in parameters):
            return names - {'self'}
    return None


def walk(node: Any, start: str = '') -> Iterator[tuple[str, Any]]:
    """Yield the place of every setting of a config, as in --cfg-options, with its value."""
    if isinstance(node, Mapping):
        parts = list(node.items())
    elif isinstance(node, (list, tuple)):
        parts = [(str(i), v) for i, v in enumerate(node) if isinstance(v, Mapping)]
    else:
        return
    for key, value in parts:
        yield f'{start}{key}', value
        yield from walk(value, f'{start}{key}.')


def type_name(kind: Any) -> str:
    """The bare name of a class: 'CocoDataset', whichever way ``kind`` gives it."""
    return getattr(kind, '__name__', str(kind)).split('.')[-1]


def visualizer_of(cfg: Config) -> dict[str, Any]:
    """Return the config of the visualizer, that of the library if there is none."""
    library = 'Det' if scope_of(cfg) == 'mmdet' else 'Seg'
    return cfg.get('visualizer') or dict(type=f'{library}LocalVisualizer')


def scope_of(cfg: Config) -> str:
    """Find the scope that a config's names are looked up in.

    New-style configs of mmdet set ``default_scope = None``. What the tools add to a config
    is in a library's scope nevertheless.

    Returns:
        ``default_scope``; without one the library, 'mmdet' or 'mmseg', that the class of
        the model or the visualizer comes from or is derived from; else 'mmengine'.
    """
    if cfg.get('default_scope') is not None:
        return cfg.default_scope
    for part, registry in (('model', MODELS), ('visualizer', VISUALIZERS)):
        for base in getattr(class_of(cfg.get(part) or {}, registry), '__mro__', ()):
            library = base.__module__.split('.')[0]
            if library in ('mmdet', 'mmseg'):
                return library
    return 'mmengine'
