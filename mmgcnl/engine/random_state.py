"""The states of the random generators that a training draws from."""

from __future__ import annotations

import random
from typing import Any, cast

import numpy as np
import torch


def get_random_state() -> dict[str, Any]:
    """Get the states of this process's random generators.

    Returns:
        A dict of tensors, numbers and tuples of these, which a checkpoint can hold.
    """
    name, keys, *rest = cast(tuple, np.random.get_state())
    state = dict(
        python=random.getstate(),
        numpy=(name, torch.from_numpy(keys.astype(np.int64)), *rest),
        torch=torch.get_rng_state(),
    )
    if torch.cuda.is_available():
        state['cuda'] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Set what :func:`get_random_state` returned, whose tensors may be on any device."""
    random.setstate(state['python'])
    name, keys, *rest = state['numpy']
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state['torch'].cpu())
    if 'cuda' in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state['cuda'].cpu())
