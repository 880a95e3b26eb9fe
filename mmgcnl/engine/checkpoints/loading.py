"""Reading checkpoints without running code in them, and finding intact ones.

A .pth file is a pickle, and a pickle can call any function. After
:func:`install_safe_loading`, everything that mmengine loads (load_from, resume, Pretrained;
files and URLs) is read by torch's weights_only loader. Without mmgcnl, OpenMMLab's mmengine
0.10.7 cannot resume that way, and OneDL's falls back to unsafe loading.
"""

from __future__ import annotations

import errno
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from pathlib import Path
from typing import Any

import torch
from mmengine.runner import CheckpointLoader, checkpoint

from .integrity import CheckpointError, check_archive
from .safe_globals import safe_globals


def find_checkpoints(work_dir: str, *others: str) -> list[str]:
    """List the checkpoints from which training in ``work_dir`` may be resumed.

    Returns:
        First the path in mmengine's file last_checkpoint, then the other checkpoints of
        that folder, of ``work_dir`` and of ``others``, newest first. None has been opened.
    """
    pointer = Path(work_dir, 'last_checkpoint')
    named = pointer.read_text().strip() if pointer.is_file() else ''
    # best_*.pth are left out: they hold no optimizer state.
    folders = {*map(Path, (work_dir, *others))}
    folders |= {Path(named).parent} if named else set()
    found = {
        path
        for folder in folders
        for path in folder.glob('*_[0-9]*.pth')
        if re.fullmatch(r'(epoch|iter)_\d+\.pth', path.name)
    }
    newest_first = sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True)
    paths = [str(path) for path in newest_first if path != Path(named)]
    # If the folder was moved, the named path is gone, and its file is among the others.
    return [named, *paths] if named and Path(named).is_file() else paths


_environment_lock = threading.RLock()


@contextmanager
def _weights_only() -> Iterator[None]:
    """Make torch.load weights_only, whatever its caller passes; one thread at a time."""
    force, never = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD', 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'
    with _environment_lock:
        before = {name: os.environ.pop(name, None) for name in (force, never)}
        os.environ[force] = '1'
        try:
            yield
        finally:
            del os.environ[force]
            os.environ.update({k: v for k, v in before.items() if v is not None})


def _safe(load: Callable) -> Callable:
    """Make one of mmengine's loaders weights_only, with errors that name the file."""

    @wraps(load)
    def load_safely(filename: str, *args: Any, **kwargs: Any) -> Any:
        path = os.path.expanduser(filename)
        try:
            if os.path.isfile(path):
                check_archive(path)
            with _weights_only():
                return load(filename, *args, **kwargs)
        except CheckpointError:
            raise
        except FileNotFoundError:
            if '://' not in filename:
                raise
            raise CheckpointError(
                f'{filename}: give a path, or a URL that begins with http:// or https://'
            ) from None
        except Exception as error:  # a broken file makes pickle and zip raise anything
            # For some truncated files, torch raises an OSError with EINVAL.
            broken = getattr(error, 'errno', None) == errno.EINVAL
            if isinstance(error, (ImportError, OSError)) and not broken:
                raise  # there is no such file, no network, or no torchvision
            # torch's own message recommends weights_only=False: leave that out.
            asked = re.search(r'GLOBAL (\S+) ', str(error))
            if asked:
                raise CheckpointError(
                    f'{filename} refused: it asks for {asked[1]}, neither a weight nor a '
                    'log, so that loading the file could run arbitrary code. If you '
                    'trust its author, load it with torch.load(..., weights_only=False), '
                    "save its 'state_dict' with torch.save, and use that file"
                ) from None
            reason = str(error).split('\n')[0] or type(error).__name__
            raise CheckpointError(
                f'{filename} is not a checkpoint, or is truncated: {reason}'
            ) from None

    return load_safely


@cache
def install_safe_loading() -> None:
    """Make mmengine load checkpoints without running code, for the rest of the process.

    :class:`~mmgcnl.engine.Runner` and :func:`mmgcnl.apis.init_model` call this before they
    load anything. Calling it again has no effect.
    """
    torch.serialization.add_safe_globals(safe_globals())
    for prefix, loader in list(CheckpointLoader._schemes.items()):
        CheckpointLoader.register_scheme(prefix, _safe(loader), force=True)
    if hasattr(checkpoint, '_safe_torch_load'):
        # OneDL's mmengine allows any getattr and falls back to unsafe loading here.
        checkpoint._safe_torch_load = torch.load
