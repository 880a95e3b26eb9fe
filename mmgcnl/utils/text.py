"""Wording that several error messages share."""

import difflib
from collections.abc import Iterable


def first_names(names: Iterable[str], limit: int = 3) -> str:
    """Join the first names by commas, and end with ', ...' when there are more."""
    names = list(names)
    return ', '.join(names[:limit]) + (', ...' if len(names) > limit else '')


def format_size(size: Iterable[int]) -> str:
    """Format a size (H, W) as 'H x W'."""
    return ' x '.join(map(str, size))


def first_cause(error: BaseException) -> str:
    """Format the error that started a chain of errors, by the first line of its text."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return f'{type(error).__name__}: {lines[0] if lines else "no message"}'


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """' (did you mean X?)' for the most similar known words; '' if none is similar."""
    near = difflib.get_close_matches(word, list(known), n=3)
    return f' (did you mean {" or ".join(near)}?)' if near else ''
