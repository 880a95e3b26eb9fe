"""The runner that a config asks for by ``runner_type``."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import RUNNERS
from mmengine.runner import Runner as _Runner

from mmgcnl.utils.config_types import class_of, type_name

from .checkpoints import install_safe_loading
from .options import ConfigError
from .runner import Runner


def build_runner(cfg: Config) -> Any:
    """Build the runner of a config.

    Without ``runner_type``, or with 'Runner', it is ours. Another registered type is built
    as mmdet's and mmseg's tools do it: mmengine's FlexibleRunner, for example, trains with
    FSDP or DeepSpeed.

    Raises:
        ValueError: No runner of that name is registered, or it cannot work here.
    """
    name = cfg.get('runner_type', 'Runner')
    kind = class_of(dict(type=name), RUNNERS)
    if kind is _Runner:
        return Runner.from_cfg(cfg)
    if kind is None:
        raise ConfigError(
            f'no runner {name!r} is registered: name its module in custom_imports, or '
            'remove runner_type'
        )
    if issubclass(kind, Runner):
        return kind.from_cfg(cfg)
    name = type_name(name)
    _check_machine(cfg, name)
    install_safe_loading()
    runner = kind.from_cfg(cfg)
    runner.logger.warning(
        f'runner_type={name!r}: without what mmgcnl adds to its own runner: exact '
        'resuming, checkpoints that are complete or absent, the checks of data and '
        'number of classes, and the stop at a loss that is not finite'
    )
    return runner


def _check_machine(cfg: Config, name: str) -> None:
    strategy = type_name((cfg.get('strategy') or {}).get('type'))
    if strategy == 'DeepSpeedStrategy' and find_spec('deepspeed') is None:
        raise ConfigError(
            'DeepSpeedStrategy needs the package deepspeed: pip install deepspeed, or '
            'choose another strategy'
        )
    if get_device() != 'cpu':
        return
    if strategy in ('FSDPStrategy', 'DeepSpeedStrategy', 'ColossalAIStrategy'):
        raise ConfigError(
            f'{strategy} needs a GPU: the shards of a model lie on GPUs, and torch refuses '
            'FSDP without one; remove runner_type and strategy to train here'
        )
    if cfg.get('launcher', 'none') != 'none':
        raise ConfigError(
            f'{name} in several processes needs a GPU for each, whose number it gives to '
            'DistributedDataParallel; remove runner_type to train on the CPU'
        )
