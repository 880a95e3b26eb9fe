"""Verdicts on the fused kernels, kept on disk: one process finds them, others read them."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

try:
    import fcntl
except ImportError:  # Windows: every process finds its own verdicts
    fcntl = None  # type: ignore[assignment]

_logger = logging.getLogger('mmgcnl')
#: Seconds that a process waits for another one that is about to find the same verdict.
#: With the time for its own attempt, it stays below the 10 minutes after which NCCL ends a
#: training.
WAIT = 240.0
# When this process imported the module, in seconds since 1970.
_STARTED = time.time()


def verdict_folder() -> Path:
    """Where the verdicts are: mmgcnl/kernels in $XDG_CACHE_HOME, or in ~/.cache."""
    cache = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
    return Path(cache) / 'mmgcnl' / 'kernels'


def shared_verdict(
    folder: Path,
    key: dict[str, Any],
    what: str,
    find: Callable[[], str | None],
    wait: float = WAIT,
) -> str | None:
    """The verdict for ``key``: that on the disk, or else that of ``find``.

    Of several processes, one calls ``find``, and the others wait. When it dies, the system
    releases its lock, and the next one calls ``find``. They all do, each for itself, where
    the folder cannot be written, the file system has no locks, or the wait is over.

    A reason against the kernels may be gone the next time, such as a missing compiler. It
    counts for the processes that had started when it was found; later ones call ``find``.

    Args:
        folder: Where the verdicts are.
        key: What the verdict depends on, as JSON has it.
        what: What the verdict is on, for the log.
        find: Returns None if the kernels can be used, or else the reason. Exceptions are
            passed on, and then nothing is kept.
        wait: Seconds.
    """
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    path = folder / f'{digest[:32]}.json'
    known, reason = _read(path, key)
    if known:
        return reason
    _logger.warning(
        'Compiling and checking %s. This takes up to a minute, once on this machine: one '
        'process does it, and the others wait. The result is kept in %s.',
        what,
        folder,
    )
    with _locked(path.with_suffix('.lock'), wait):
        known, reason = _read(path, key)
        if not known:
            reason = find()
            _write(path, dict(key=key, reason=reason, found=time.time()))
    return reason


def _read(path: Path, key: dict[str, Any]) -> tuple[bool, str | None]:
    """Whether there is a verdict that counts, and the reason against the kernels."""
    try:
        entry = json.loads(path.read_text())
        if entry['key'] != key:
            return False, None
        reason, found = entry['reason'], float(entry['found'])
    except (OSError, ValueError, TypeError, KeyError):  # none, or a damaged file
        return False, None
    if reason is None:
        return True, None
    return isinstance(reason, str) and found >= _STARTED, reason


def _write(path: Path, entry: dict[str, Any]) -> None:
    """Replace the file at once, so that no process reads a part of it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        number, part = tempfile.mkstemp(dir=path.parent, suffix='.part')
        try:
            with open(number, 'w') as file:
                json.dump(entry, file, indent=1)
            os.replace(part, path)
        except BaseException:
            os.unlink(part)
            raise
    except OSError as error:
        warnings.warn(
            f'the check of the fused kernels cannot be kept ({error}), and every process '
            'makes its own; set XDG_CACHE_HOME to a folder that can be written',
            stacklevel=2,
        )


@contextmanager
def _locked(path: Path, wait: float) -> Iterator[None]:
    """Hold the lock of a file; or no lock, where there is none or the wait is over."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open('a')
    except OSError:
        yield
        return
    # Closing the file releases the lock, and so does the end of the process.
    with file:
        end = time.monotonic() + wait
        while fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= end:
                    break
                time.sleep(0.1)
            except OSError:  # a file system without locks
                break
        yield


def machine_key(device: torch.device, triton_version: str) -> dict[str, Any]:
    """What a verdict depends on besides the kind of input: GPU, driver, versions, source.

    Args:
        device: A GPU.
        triton_version: Of the installed Triton.
    """
    gpu = torch.cuda.get_device_properties(device)
    # Triton's variables can change the compiled code; its folders can differ by process.
    options = {
        name: value
        for name, value in sorted(os.environ.items())
        if name.startswith('TRITON_') and not name.endswith(('_DIR', '_HOME'))
    }
    return dict(
        gpu=gpu.name,
        capability=[gpu.major, gpu.minor],
        driver=_driver(),
        torch=torch.__version__,
        cuda=torch.version.cuda,
        triton=triton_version,
        options=options,
        source=source_digest(),
    )


def _driver() -> str:
    try:
        return Path('/proc/driver/nvidia/version').read_text().strip()
    except OSError:  # not Linux: at least the version of CUDA that it supports
        return str(getattr(torch._C, '_cuda_getDriverVersion', str)())


@functools.cache
def source_digest() -> str:
    """A checksum of the kernels, and of all that they are compared with."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob('*.py')):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()
