"""Writing checkpoints so that a failure never costs an earlier one."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from typing import Any

import torch
from torch import nn


def check_finite(model: nn.Module, iteration: int, filename: str) -> None:
    """Check the weights before they are saved.

    Raises:
        FloatingPointError: The weights are not finite.
    """
    for name, weight in model.named_parameters():
        if not torch.isfinite(weight).all():
            raise FloatingPointError(
                f'iteration {iteration}: {name} is not finite, so {filename} is '
                'not saved and the checkpoint before it is kept; lower '
                'optim_wrapper.optimizer.lr or set optim_wrapper.clip_grad'
            )


def write_whole(path: str, write: Callable[[str], None]) -> None:
    """Write a file so that ``path`` is either the whole new file or what it was before.

    Args:
        path: The file.
        write: Writes a file of the given name.

    Raises:
        OSError: The file cannot be written.
    """
    part = f'{path}.part'
    try:
        # It may be a link that someone put there.
        with suppress(FileNotFoundError):
            os.remove(part)
        write(part)
        _flush(part)
        os.replace(part, path)
    except OSError as error:
        with suppress(OSError):
            os.remove(part)
        raise OSError(
            error.errno,
            f'{path} could not be saved: {error.strerror or error}. Earlier checkpoints '
            'are unchanged',
        ) from error
    # The entry of the folder is flushed, too, where the file system can do that.
    with suppress(OSError):
        _flush(os.path.dirname(path) or '.', os.O_RDONLY)


def survive_failing_logs(logger: logging.Logger, visualizer: Any) -> None:
    """Let a training go on when its logs cannot be written.

    Args:
        logger: The logger of the training.
        visualizer: mmengine's Visualizer, which writes the curves.
    """
    for handler in logger.handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handleError = lambda record: None  # type: ignore[method-assign]
    for name in ('add_scalar', 'add_scalars', 'add_image'):
        write = getattr(visualizer, name)
        setattr(visualizer, name, _surviving(write, logger))


def _surviving(write: Callable, logger: logging.Logger) -> Callable:
    @wraps(write)
    def write_if_possible(*args: Any, **kwargs: Any) -> Any:
        try:
            return write(*args, **kwargs)
        except OSError as error:
            logger.error(f'a log could not be written, the training goes on: {error}')
            return None

    return write_if_possible


def _flush(path: str, mode: int = os.O_RDWR) -> None:
    """Wait until a file, or the entries of a folder, are on the disk."""
    descriptor = os.open(path, mode)  # Windows flushes only what can be written
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
