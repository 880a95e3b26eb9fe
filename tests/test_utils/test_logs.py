"""Logs of trainings that were resumed, repeated or could not be written."""

import json

import pytest

from mmgcnl.utils.logs import read_log


@pytest.fixture
def write(tmp_path):
    """Write the log of one more start of the training."""

    def write(*lines):
        number = len(list(tmp_path.iterdir()))
        path = tmp_path / f'2026010{number}_000000/vis_data/scalars.json'
        path.parent.mkdir(parents=True)
        texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
        path.write_text('\n'.join(texts))

    return write


def losses(folder):
    return {line['step']: line['loss'] for line in read_log(folder) if 'loss' in line}


def test_resumed_training(tmp_path, write):
    write(*(dict(loss=float(i), step=i) for i in (50, 100, 150)))
    write(*(dict(loss=-float(i), step=i) for i in (150, 200)))
    assert losses(tmp_path) == {50: 50, 100: 100, 150: -150, 200: -200}


def test_training_from_the_start_in_the_same_folder(tmp_path, write):
    write(*(dict(loss=1.0, step=i) for i in (50, 100, 150)))
    write(dict(loss=2.0, step=50))
    assert losses(tmp_path) == {50: 2.0}


def test_validation_that_counts_epochs(tmp_path, write):
    write(dict(loss=1.0, step=50), dict(AP=0.1, step=1), dict(loss=1.0, step=100))
    assert [line['step'] for line in read_log(tmp_path)] == [50, 50, 100]


def test_training_that_is_resumed_within_a_validation(tmp_path, write):
    write(*(dict(loss=1.0, step=50 * i) for i in range(1, 8)), dict(AP=0.1, step=3))
    write(dict(AP=0.3, step=3), dict(loss=2.0, step=350), dict(loss=2.0, step=400))
    steps = {step: 1.0 for step in range(50, 350, 50)}
    assert losses(tmp_path) == {**steps, 350: 2.0, 400: 2.0}
    assert [(d['step'], d['AP']) for d in read_log(tmp_path) if 'AP' in d] == [(300, 0.3)]


def test_broken_lines(tmp_path, write):
    write(
        '{"loss": 0.9{"loss": 0.8, "step": 50}',
        dict(loss=0.7, step=100),
        dict(step='x'),
        '{"loss"',
    )
    assert losses(tmp_path) == {100: 0.7}


def test_no_log(tmp_path):
    assert read_log(tmp_path) == []
