"""Checks of options in configs; their errors name the option, the value and the remedy."""

from __future__ import annotations

import inspect
from typing import Any

from mmcv.cnn import build_norm_layer
from mmengine.registry import MODELS
from torch import nn

from mmgcnl.utils.config_types import class_of


def check_layer_cfg(name: str, cfg: Any) -> None:
    """Check that ``cfg`` is None or the config of a registered layer.

    Args:
        name: Name of the option.
        cfg: Its value.

    Raises:
        TypeError: ``cfg`` is not a dict.
        ValueError: Its type is missing or not registered.
    """
    if cfg is None:
        return
    if not isinstance(cfg, dict):
        raise TypeError(f"{name}={cfg!r}: give a dict with a 'type', or None")
    layer = cfg.get('type')
    # A registered name may also be that of a function, which makes the layer.
    if inspect.isclass(layer) or (isinstance(layer, str) and class_of(cfg, MODELS)):
        return
    with MODELS.switch_scope_and_registry(None) as registry:
        raise ValueError(
            f'{name}={cfg!r}: no layer type={layer!r} in the registry {registry.scope!r}; '
            'give the name of a registered layer, or import the module that registers it'
        )


def build_norm(cfg: dict, num_features: int) -> nn.Module:
    """Build the norm that ``cfg`` describes.

    Args:
        cfg: Config of a norm, such as ``dict(type='BN')``.
        num_features: Its channels.

    Raises:
        TypeError: ``cfg`` is not a dict.
        ValueError: There is no such norm, or it does not take these options.
    """
    check_layer_cfg('norm_cfg', cfg)
    try:
        return build_norm_layer(cfg, num_features)[1]
    except (AssertionError, TypeError, ValueError) as error:
        reason = str(error) or 'a required option is missing'
        raise ValueError(
            f'norm_cfg={cfg!r} cannot be built for {num_features} channels: {reason}'
        ) from error
