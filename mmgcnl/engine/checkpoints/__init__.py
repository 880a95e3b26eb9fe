"""Checkpoints: read without running code in them, checked, written whole."""

from .integrity import CheckpointError
from .loading import CheckpointLoader, find_checkpoints, install_safe_loading
from .pretrained import explain_missing_weights
from .saving import (
    check_finite,
    check_loadable,
    default_statistics,
    survive_failing_logs,
    to_builtin_types,
    write_whole,
)

__all__ = [
    'CheckpointError',
    'CheckpointLoader',
    'check_finite',
    'check_loadable',
    'default_statistics',
    'explain_missing_weights',
    'find_checkpoints',
    'install_safe_loading',
    'survive_failing_logs',
    'to_builtin_types',
    'write_whole',
]
