"""The logs of trainings, in their work dirs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def read_log(work_dir: Path) -> list[dict[str, Any]]:
    """Read what a training has logged, also before it was resumed.

    Lines that are not complete, because the training is writing or the disk was full, are
    left out. A later log replaces what an earlier one has from its first iteration on: of
    two trainings from the start, the later counts.

    Returns:
        The lines in the order of the iterations. ``step`` is the iteration, also of a
        validation, for which mmengine logs the epoch where a training counts epochs.
    """
    found: list[dict[str, Any]] = []
    for path in sorted(work_dir.glob('*/vis_data/scalars.json')):
        lines = list(_complete_lines(path))
        # A resumed training may begin with a validation, which says the epoch only.
        start = next((line['step'] for line in lines if 'loss' in line), None)
        if start is not None:
            found = [line for line in found if line['step'] < start]
        last = found[-1]['step'] if found else 0
        for line in lines:
            last = line['step'] = max(line['step'], last)
        found += lines
    return found


def _complete_lines(path: Path) -> Iterator[dict[str, Any]]:
    for text in path.read_text(errors='replace').splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        if isinstance(line, dict) and isinstance(line.get('step'), int):
            yield line
