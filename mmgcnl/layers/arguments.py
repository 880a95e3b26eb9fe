"""Checks of arguments that several layers and models take.

Every function raises a ValueError that names the argument, its value and the remedy. A
bool is never a number here, although Python counts it as one: ``scale=True`` is a mistake.
"""

from __future__ import annotations

import math
from typing import Any


def is_number(value: Any) -> bool:
    """Whether ``value`` is a finite int or float, and not a bool."""
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and math.isfinite(value)
    )


def is_index(value: Any) -> bool:
    """Whether ``value`` is an int, and not a bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def check_whole_number(name: str, number: Any) -> None:
    """Raise a ValueError unless ``number`` is a whole number of at least 1."""
    if not is_index(number) or number < 1:
        raise ValueError(f'{name}={number!r}: give a whole number of at least 1')


def check_rate(name: str, number: Any) -> None:
    """Raise a ValueError unless ``number`` is from 0 to below 1."""
    if not is_number(number) or not 0 <= number < 1:
        raise ValueError(f'{name}={number!r}: give a number from 0 to below 1')


def check_number_above(name: str, number: Any, bound: float, or_none: bool = False) -> None:
    """Raise a ValueError unless ``number`` is a finite number above ``bound``.

    Args:
        name: The argument's name.
        number: Its value.
        bound: What it must exceed.
        or_none: Whether None is allowed, too.
    """
    if or_none and number is None:
        return
    if not is_number(number) or not number > bound:
        remedy = f'give a number above {bound:g}' + (', or None' if or_none else '')
        raise ValueError(f'{name}={number!r}: {remedy}')
