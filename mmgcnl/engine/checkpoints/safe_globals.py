"""What checkpoints may consist of besides tensors and Python's own types: logs and arrays.

A pickle names functions and says what to call them with, so every name that is allowed must
be harmless with any arguments. NumPy's own are not: a forged dtype makes it read and write
beyond its memory.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pickle import UnpicklingError
from typing import Any

import numpy as np
from mmengine.logging import HistoryBuffer


def safe_globals() -> list[Any]:
    """List what torch's weights_only loader may take besides its own."""
    return [
        HistoryBuffer,
        _as('builtins.getattr', _getattr),
        *(
            _as(f'numpy.{core}.multiarray.{name}', function)
            for core in ('core', '_core')  # the name before and since numpy 2
            for name, function in dict(_reconstruct=_empty, scalar=_scalar).items()
        ),
        _Array,
        _Dtype,
    ]


def _as(path: str, function: Callable) -> Callable:
    """Wrap ``function`` so that torch takes it for the one that a pickle calls ``path``."""

    def called(*args: Any) -> Any:
        return function(*args)

    called.__module__, called.__name__ = path.rsplit('.', 1)
    called.__qualname__ = called.__name__
    return called


def _getattr(owner: Any, name: str) -> Any:
    """Do what mmengine's logs need of builtins.getattr, and nothing else."""
    if owner is not HistoryBuffer or name not in ('min', 'max', 'current', 'mean'):
        raise UnpicklingError('GLOBAL builtins.getattr was asked for more')
    return vars(HistoryBuffer)[name]


class _Dtype:
    """Stands for numpy.dtype in a pickle: numbers and strings only."""

    def __init__(self, code: str, align: Any = False, copy: Any = False) -> None:
        if not re.fullmatch(r'[?bBhHiIlLqQefd]|b1|[iu][1248]|f[248]|U\d{1,4}', str(code)):
            raise UnpicklingError(f'GLOBAL numpy.dtype({code}) was asked for')
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        _, order, *structure = state[:5]
        if order not in ('<', '>', '=', '|') or structure != [None] * 3:
            raise UnpicklingError('GLOBAL numpy.dtype was asked for more')
        self.dtype = self.dtype.newbyteorder(order)


class _Array(np.ndarray):
    """An array that only takes a dtype of :class:`_Dtype`. It is saved as an array."""

    def __setstate__(self, state: tuple) -> None:
        version, shape, dtype, by_columns, content = state
        if not isinstance(dtype, _Dtype) or not isinstance(content, bytes):
            raise UnpicklingError('GLOBAL numpy.ndarray was asked for more')
        super().__setstate__((version, shape, dtype.dtype, by_columns, content))

    def __reduce__(self) -> Any:
        return np.asarray(self).__reduce__()


def _empty(*args: Any) -> _Array:
    return _Array((0,), np.int8)


def _scalar(dtype: _Dtype, content: bytes) -> Any:
    if not isinstance(dtype, _Dtype):
        raise UnpicklingError('GLOBAL numpy scalar was asked for more')
    (value,) = np.frombuffer(content, dtype.dtype)
    return value


# torch looks for the names of the pickle.
_Dtype.__module__, _Dtype.__name__, _Dtype.__qualname__ = 'numpy', 'dtype', 'dtype'
_Array.__module__, _Array.__name__, _Array.__qualname__ = 'numpy', 'ndarray', 'ndarray'
