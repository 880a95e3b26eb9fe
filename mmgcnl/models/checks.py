"""Checks of the options that configs give, for errors that name the option."""

from __future__ import annotations

import inspect
from typing import Any

from mmcv.cnn import build_norm_layer
from mmengine.registry import MODELS
from torch import nn

from mmgcnl.layers.checks import check_whole_number

__all__ = ['build_norm', 'check_layer_cfg', 'check_whole_number']


def check_layer_cfg(name: str, cfg: Any) -> None:
    """Raise unless ``cfg`` is None or the config of a registered layer.

    Raises:
        TypeError: ``cfg`` is no dict.
        ValueError: Its type is missing or not registered.
    """
    if cfg is None:
        return
    if not isinstance(cfg, dict):
        raise TypeError(f"{name}={cfg!r}: give a dict with a 'type', or None")
    layer = cfg.get('type')
    if inspect.isclass(layer):
        return
    with MODELS.switch_scope_and_registry(None) as registry:
        if not isinstance(layer, str) or registry.get(layer) is None:
            raise ValueError(
                f'{name}={cfg!r}: its type={layer!r} is no layer in the registry '
                f"{registry.scope!r}; give a registered layer's name, or import it"
            )


def build_norm(cfg: dict, num_features: int) -> nn.Module:
    """The norm of ``num_features`` channels that ``cfg`` describes.

    Raises:
        TypeError: ``cfg`` is no dict.
        ValueError: There is no such norm, or not with these options.
    """
    check_layer_cfg('norm_cfg', cfg)
    try:
        return build_norm_layer(cfg, num_features)[1]
    except (AssertionError, TypeError, ValueError) as error:
        reason = str(error) or 'an option that it needs is missing'
        raise ValueError(
            f'norm_cfg={cfg!r} cannot be built for {num_features} channels: {reason}'
        ) from error
