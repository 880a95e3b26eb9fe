"""Writing checkpoints so that a failure never costs an earlier one."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress

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
        write(part)
        _flush(part)
        os.replace(part, path)
        _flush(os.path.dirname(path) or '.')
    except OSError as error:
        with suppress(OSError):
            os.remove(part)
        raise OSError(
            error.errno,
            f'{path} could not be saved: {error.strerror or error}. Earlier checkpoints '
            'are unchanged: free some space and continue with --resume',
        ) from error


def _flush(path: str) -> None:
    """Wait until a file, or the entries of a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
