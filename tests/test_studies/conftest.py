"""Records of a study that nobody ran, and studies in YAML."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmgcnl.studies import Record

CONFIG = """
default_scope = 'mmseg'
model = dict(type='EncoderDecoder', head=dict(channels=8))
train_cfg = dict(type='IterBasedTrainLoop', max_iters=4)
test_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
"""
STUDY = """
study: small
title: A small study
seeds: [0, 1, 2]
rows:
  plain: {config: plain.py, label: Plain}
  wide: {config: plain.py, options: {model.head.channels: 16}}
metrics: {mIoU: {digits: 2}, cos_att: }
primary:
  - {row: wide, than: plain, metric: mIoU, expect: higher}
"""


@pytest.fixture
def study_file(tmp_path: Path) -> Path:
    """Path of a study, beside its config."""
    (tmp_path / 'plain.py').write_text(CONFIG)
    path = tmp_path / 'small.yml'
    path.write_text(STUDY)
    return path


@pytest.fixture
def record() -> Callable[..., Record]:
    """A record that differs from a plain one in what is given."""

    def record(**changes: Any) -> Record:
        values = dict(
            study='small',
            row='plain',
            seed=0,
            metric='mIoU',
            value=50.0,
            revision='abc',
            versions='torch 2, numpy 2',
            threads=1,
            attention='auto',
            settings='01234567',
        )
        return Record(**{**values, **changes})

    return record
