"""Checkpoints with random changes are refused, or loaded as they were.

``MMGCNL_FUZZ=500 pytest -s tests/test_engine/test_checkpoints/test_fuzzed.py`` makes 500
changes of each kind, and prints how many were refused.
"""

import os
import random
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader

from mmgcnl.engine import CheckpointError, install_safe_loading

NUMBER = int(os.environ.get('MMGCNL_FUZZ', 30))


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    saved = dict(
        state_dict=OrderedDict(weight=torch.arange(40.0), bias=torch.ones(3)),
        meta=dict(iter=3, palette=np.arange(6, dtype=np.uint8).reshape(2, 3)),
        message_hub=dict(loss=HistoryBuffer([1.0, 2.0], [1, 1]), score=np.float64(0.5)),
    )
    torch.save(saved, tmp_path / 'a.pth')
    return tmp_path / 'a.pth'


def load(path: Path) -> dict | None:
    install_safe_loading()
    try:
        return CheckpointLoader.load_checkpoint(str(path), 'cpu', logger='silent')
    except CheckpointError:
        return None


def change(content: bytes, draw: random.Random) -> bytes:
    """Flip a bit, overwrite, remove, insert or repeat some bytes, or cut the end off."""
    start = draw.randrange(len(content))
    end = min(len(content), start + draw.choice([1, 2, 8, 64, 512]))
    noise = draw.randbytes(end - start)
    flipped = bytes([content[start] ^ 1 << draw.randrange(8)])
    return draw.choice(
        [
            content[:start] + flipped + content[start + 1 :],
            content[:start] + noise + content[end:],
            content[:start] + content[end:],
            content[:start] + noise + content[start:],
            content[:end] + content[start:],
            content[:start],
        ]
    )


def test_changed_file_is_refused_or_loaded_unchanged(checkpoint):
    """No change of a weight goes unnoticed."""
    content, draw = checkpoint.read_bytes(), random.Random(0)
    outcomes = Counter()
    for _ in range(NUMBER):
        checkpoint.write_bytes(change(content, draw))
        loaded = load(checkpoint)
        outcomes['refused' if loaded is None else 'loaded'] += 1
        if loaded is not None:
            assert torch.equal(loaded['state_dict']['weight'], torch.arange(40.0))
            assert torch.equal(loaded['state_dict']['bias'], torch.ones(3))
            assert loaded['meta']['palette'].tolist() == [[0, 1, 2], [3, 4, 5]]
            assert loaded['message_hub']['loss'].mean() == 1.5
    print(dict(outcomes))


def test_changed_pickle_with_right_checksums_is_refused_or_loaded(checkpoint):
    """As somebody would make it: it is refused or loaded, and nothing else happens."""
    with zipfile.ZipFile(checkpoint) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    (pickled,) = (name for name in entries if name.endswith('data.pkl'))
    outcomes, draw = Counter(), random.Random(1)
    for _ in range(NUMBER):
        changed = {**entries, pickled: change(entries[pickled], draw)}
        with zipfile.ZipFile(checkpoint, 'w') as archive:
            for name, content in changed.items():
                archive.writestr(name, content)
        outcomes['refused' if load(checkpoint) is None else 'loaded'] += 1
    assert outcomes['refused']
    print(dict(outcomes))
