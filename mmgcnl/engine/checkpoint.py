"""Reading checkpoints without running what is in them, and finding intact ones.

A .pth file is a pickle, and a pickle can call any function. Importing this module has
whatever mmengine loads (load_from, resume, Pretrained; files and URLs) read by torch's
weights_only loader. Left alone, OpenMMLab's mmengine 0.10.7 cannot resume that way, and
OneDL's, when that fails, loads without it.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader, checkpoint

__all__ = ['CheckpointError', 'CheckpointLoader', 'find_checkpoints']


class CheckpointError(ValueError):
    """The file is no checkpoint, or is truncated, or would run code when loaded."""


def find_checkpoints(work_dir: str) -> list[str]:
    """Paths of the checkpoints that training in ``work_dir`` can go on from.

    First the one that mmengine's file last_checkpoint names, then the others of its
    folder and of ``work_dir``, newest first. None of them was opened.
    """
    pointer = Path(work_dir, 'last_checkpoint')
    named = pointer.read_text().strip() if pointer.is_file() else ''
    # Not best_*.pth: they have no optimizer.
    found = {
        path
        for folder in {Path(work_dir), Path(named).parent}
        for path in folder.glob('*_[0-9]*.pth')
        if re.fullmatch(r'(epoch|iter)_\d+\.pth', path.name)
    }
    newest_first = sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True)
    paths = [str(path) for path in newest_first if path != Path(named)]
    # The folder may have been moved since: then its checkpoints are among the others.
    return [named, *paths] if named and Path(named).is_file() else paths


def _getattr(owner: Any, name: str) -> Any:
    """The part of builtins.getattr that mmengine's logs need."""
    if owner is not HistoryBuffer or name not in ('min', 'max', 'current', 'mean'):
        raise UnpicklingError('GLOBAL builtins.getattr was asked for more')
    return vars(HistoryBuffer)[name]


def _as(path: str, function: Callable) -> Callable:
    """``function``, for torch to find when a pickle asks for ``path``."""

    def called(*args: Any) -> Any:
        return function(*args)

    called.__module__, called.__name__ = path.rsplit('.', 1)
    called.__qualname__ = called.__name__
    return called


# Besides tensors and Python's own types, what mmengine saves: logs and scores. Numpy 2
# renamed numpy.core.
_numpy_s: list[Any] = [value.__reduce__()[0] for value in (np.zeros(1), np.float64(0))]
torch.serialization.add_safe_globals(
    [
        HistoryBuffer,
        _as('builtins.getattr', _getattr),
        *(
            _as(f'numpy.{core}.multiarray.{function.__name__}', function)
            for core in ('core', '_core')
            for function in _numpy_s
        ),
        np.ndarray,
        np.dtype,
        *{type(np.dtype(code)) for code in '?bBhHiIlLqQefdU'},
    ]
)


@contextmanager
def _weights_only() -> Iterator[None]:
    """Have torch.load be weights_only whatever its caller asks for."""
    force, never = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD', 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'
    before = {name: os.environ.pop(name, None) for name in (force, never)}
    os.environ[force] = '1'
    try:
        yield
    finally:
        del os.environ[force]
        os.environ.update({k: v for k, v in before.items() if v is not None})


def _safe(load: Callable) -> Callable:
    """mmengine's ``load`` of one kind of address, weights_only."""

    @wraps(load)
    def load_safely(filename: str, *args: Any, **kwargs: Any) -> Any:
        try:
            with _weights_only():
                return load(filename, *args, **kwargs)
        except Exception as error:  # whatever a broken file makes of pickle and zip
            # OSError: of some truncated files, torch says that the argument is invalid.
            broken = getattr(error, 'errno', None) == errno.EINVAL
            if isinstance(error, (ImportError, OSError)) and not broken:
                raise  # there is no such file, no network, no torchvision
            # Not torch's whole message, which recommends to load it all the same.
            asked = re.search(r'GLOBAL (\S+) ', str(error))
            if asked:
                raise CheckpointError(
                    f'{filename} refused: it asks for {asked[1]}, which is neither weights '
                    'nor logs, so loading it could run code that someone put there. If you '
                    'trust who wrote it, load it by torch.load(..., weights_only=False), '
                    "save its 'state_dict' by torch.save and use that file"
                ) from None
            reason = str(error).split('\n')[0] or type(error).__name__
            raise CheckpointError(
                f'{filename} is no checkpoint, or truncated: {reason}'
            ) from None

    return load_safely


for prefix, loader in list(CheckpointLoader._schemes.items()):
    CheckpointLoader.register_scheme(prefix, _safe(loader), force=True)
if hasattr(checkpoint, '_safe_torch_load'):
    # OneDL's allows all of getattr, and warns of loading unsafely when it may not.
    checkpoint._safe_torch_load = torch.load
