"""Explanation of errors when pretrained weights cannot be loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mmgcnl.utils.config_types import type_name, walk


@contextmanager
def explain_missing_weights(model_cfg: dict) -> Iterator[None]:
    """Name the options that turn pretrained weights off when they cannot be loaded.

    Args:
        model_cfg: The config of the model whose weights are initialised inside.

    Raises:
        RuntimeError: An ImportError or OSError occurred inside, and the config asks for
            pretrained weights.
    """
    try:
        yield
    except (ImportError, OSError) as error:
        pretrained = dict(_find_pretrained(model_cfg))
        if not pretrained:
            raise
        found = ', '.join(f'{k}: {v}' for k, v in pretrained.items())
        off = ' '.join(f'{key}=None' for key in pretrained)
        local = ' '.join(
            f'{key if key.endswith(".pretrained") else f"{key}.checkpoint"}'
            '=/path/to/weights.pth'
            for key in pretrained
        )
        raise RuntimeError(
            f'The pretrained weights ({found}) cannot be loaded: {error}. '
            f'Start without them by --cfg-options {off}, '
            f'or read them from a file by --cfg-options {local}'
        ) from error


def _find_pretrained(model_cfg: dict) -> Iterator[tuple[str, str]]:
    """Yield the config key and the checkpoint of each pretrained initialisation."""
    for place, node in walk(dict(model=model_cfg)):
        if isinstance(node, dict):
            if type_name(node.get('type')) in ('Pretrained', 'PretrainedInit'):
                yield place, node['checkpoint']
        elif isinstance(node, str) and place.endswith('.pretrained'):
            yield place, node
