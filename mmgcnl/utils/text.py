"""Wording that several error messages share."""

from collections.abc import Iterable


def first_names(names: Iterable[str], limit: int = 3) -> str:
    """Join the first names by commas, and end with ', ...' when there are more."""
    names = list(names)
    return ', '.join(names[:limit]) + (', ...' if len(names) > limit else '')


def format_size(size: Iterable[int]) -> str:
    """Format a size (H, W) as 'H x W'."""
    return ' x '.join(map(str, size))
