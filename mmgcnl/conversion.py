"""Deprecated: :mod:`mmgcnl.deployment` has what was here."""

from .utils.deprecation import moved_names

__getattr__ = moved_names(
    __name__,
    {
        name: f'mmgcnl.deployment.{name}'
        for name in ('convert_state_dict', 'largest_difference')
    },
)
