"""Explanation of errors of backbones from timm."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mmgcnl.utils.config_types import type_name, walk

from .options import ConfigError


@contextmanager
def explain_timm(model_cfg: dict) -> Iterator[None]:
    """Name the package or the option that mmseg's TIMMBackbone lacks.

    It loads its weights when it is built, also for a model that then gets others.

    Args:
        model_cfg: The config of the model that is built inside.

    Raises:
        ConfigError: timm is not installed, or its weights cannot be downloaded.
    """
    try:
        yield
    except RuntimeError as error:
        if 'timm is not installed' not in str(error):
            raise
        raise ConfigError(
            'TIMMBackbone needs the package timm, and timm a torchvision for this torch: '
            'pip install timm'
        ) from error
    except OSError as error:
        keys = [
            place
            for place, node in walk(dict(model=model_cfg))
            if isinstance(node, dict)
            and type_name(node.get('type')) == 'TIMMBackbone'
            and (node.get('pretrained', True) or node.get('checkpoint_path'))
        ]
        if not keys:
            raise
        raise ConfigError(
            f'the weights of timm cannot be loaded: {error} Build without them by '
            f'--cfg-options {" ".join(f"{key}.pretrained=False" for key in keys)}, with '
            f'{keys[0]}.checkpoint_path=FILE for a downloaded file'
        ) from error
