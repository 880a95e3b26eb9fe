"""Records of a study that nobody ran, and studies in YAML."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mmgcnl.studies import Record, Results, read_study

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
PLAIN, WIDE = (50.0, 51.0, 52.5), (53.0, 54.5, 55.0)


@pytest.fixture
def study_file(tmp_path: Path) -> Path:
    """Path of a study, beside its config."""
    (tmp_path / 'plain.py').write_text(CONFIG)
    path = tmp_path / 'small.yml'
    path.write_text(STUDY)
    return path


@pytest.fixture
def repeating_file(study_file: Path) -> Path:
    """Path of a study that repeats a row of ``study_file``."""
    path = study_file.with_name('again.yml')
    path.write_text(
        'study: again\nrepeats: small.yml\nrows: [wide]\nseeds: [0]\n'
        'metrics: {mIoU: {digits: 2}}\n'
    )
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


@pytest.fixture
def records(record: Callable[..., Record]) -> list[Record]:
    """Three seeds of two rows, one value appended twice, and a run that is not complete."""
    found = []
    for row, values in (('plain', PLAIN), ('wide', WIDE)):
        settings = dict(plain='0' * 8, wide='1' * 8)[row]
        for seed, value in enumerate(values):
            common = dict(row=row, seed=seed, settings=settings)
            found.append(record(value=0.0, **common))
            found.append(record(value=value, **common))
            if row == 'wide':
                found.append(record(metric='cos_att@a', value=0.1, **common))
                found.append(record(metric='cos_att@b', value=0.3, **common))
            found.append(record(metric='train_seconds', value=9.0, **common))
    found.append(record(seed=7, value=99.0))
    found.append(record(study='other', seed=8, value=99.0))
    return found


@pytest.fixture
def results(study_file: Path, records: list[Record]) -> Results:
    """The results of the study, from these records."""
    return Results(read_study(study_file, study_file.parent), pd.DataFrame(records))
