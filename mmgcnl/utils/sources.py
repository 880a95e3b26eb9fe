"""Whether the source code of a library has a name."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path


def mentions(word: str, texts: Iterable[str], before: str = r'\b') -> bool:
    """Whether one of the texts has a word, after what the pattern ``before`` matches."""
    pattern = re.compile(rf'{before}{re.escape(word)}\b')
    return any(pattern.search(text) for text in texts)


@lru_cache(maxsize=None)
def source_of(package: str) -> str:
    """Read the source of all modules of a package, without importing it.

    Returns:
        Their text; empty if there is no such package.
    """
    module = sys.modules.get(package)
    spec = getattr(module, '__spec__', None) or find_spec(package)
    if spec is None or spec.origin is None:
        return ''
    file = Path(spec.origin)
    files = file.parent.rglob('*.py') if file.name == '__init__.py' else [file]
    return '\n'.join(path.read_text(errors='ignore') for path in sorted(files))
