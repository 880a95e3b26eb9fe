"""Writing checkpoints so that a failure never costs an earlier one."""

from __future__ import annotations

import logging
import os
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from io import BytesIO
from pickle import UnpicklingError
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from mmengine.utils import apply_to
from torch import nn

from .integrity import CheckpointError


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
        OSError: It cannot be written.
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


def to_builtin_types(node: Any) -> Any:
    """Reduce a part of a checkpoint to what :func:`safe_globals` lets the loader take.

    Configs become dicts. Functions are left out: a scheduler has its own when it is built.
    """
    if isinstance(node, ConfigDict):
        node = node.to_dict()
    if type(node) in (dict, OrderedDict):
        return type(node)(
            (k, to_builtin_types(v)) for k, v in node.items() if not callable(v)
        )
    if type(node) in (list, tuple):
        return type(node)(map(to_builtin_types, node))
    return node


def check_loadable(content: dict[str, Any]) -> None:
    """Check that the loader takes a checkpoint, whose tensors are left out.

    Raises:
        CheckpointError: It does not; the message names the class.
    """
    file = BytesIO()
    torch.save(apply_to(content, torch.is_tensor, lambda tensor: None), file)
    file.seek(0)
    try:
        torch.load(file, weights_only=True, map_location='cpu')
    except UnpicklingError as error:
        asked = re.search(r'GLOBAL (\S+) ', str(error))
        raise CheckpointError(
            'the checkpoints of this training could not be loaded again: they would hold '
            f'{asked[1] if asked else error}, neither a weight nor a log. Let the hook or '
            'data set that it comes from store numbers, text, lists and dicts only'
        ) from None


@contextmanager
def default_statistics() -> Iterator[None]:
    """Keep registered statistics, which are functions, out of the logs in a checkpoint."""
    methods = HistoryBuffer._statistics_methods
    registered = {k: v for k, v in methods.items() if k not in vars(HistoryBuffer)}
    for name in registered:
        del methods[name]
    try:
        yield
    finally:
        methods.update(registered)


def survive_failing_logs(logger: logging.Logger, visualizer: Any) -> None:
    """Let a training go on when its logs cannot be written.

    mmengine's visualizer writes the curves, the logger the text.
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
