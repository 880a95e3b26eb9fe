"""Computing in a precision of one's own, whatever the caller's autocast asks for."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def no_autocast(device_type: str) -> AbstractContextManager:
    """Turn autocast off. Some devices have none, such as 'meta'."""
    # torch.compile cannot trace is_autocast_available.
    if not torch.compiler.is_compiling():
        if not torch.amp.is_autocast_available(device_type):
            return nullcontext()
    return torch.autocast(device_type, enabled=False)
