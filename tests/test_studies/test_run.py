"""Which runs are left, what they leave behind, and their jobs."""

import json
import math
import threading

import pytest

import mmgcnl.studies.run as module
from mmgcnl.studies import (
    Execution,
    StudyError,
    append_records,
    carry_out,
    other_batch_sizes,
    plan,
    read_records,
    read_study,
)
from mmgcnl.studies.results import LAST_ABLATION, LAST_METRIC
from mmgcnl.studies.run import Job, RunFailed, locked, measured
from tests.slurm import Slurm, until


@pytest.fixture
def planned(study_file, tmp_path):
    """Plan the runs of a study."""

    def planned(rows=('plain', 'wide'), **options):
        execution = Execution(tmp_path, tmp_path, tmp_path / 'results.csv', **options)
        study = read_study(study_file, tmp_path)
        return plan(study, study.select(rows=rows), [0], execution)

    return planned


# --- plans ----------------------------------------------------------------------------


def test_models_to_ablate(planned, record, tmp_path):
    """Those that were trained and not ablated need a checkpoint; the others do not."""
    runs = planned() + planned(images=3)[:1]
    ablated, trained = runs[:2]

    def append(run, *metrics):
        place = dict(row=run.row.name, seed=run.seed, settings=run.settings)
        append_records(
            tmp_path / 'results.csv', [record(metric=m, **place) for m in metrics]
        )

    append(ablated, LAST_METRIC, 'cos_att', LAST_ABLATION)
    append(trained, LAST_METRIC)
    assert planned(ablate=True) == []  # without blocks
    append(trained, 'cos_att@a')
    with pytest.raises(StudyError, match='no such checkpoint') as error:
        planned(ablate=True)
    assert str(trained.checkpoint) in str(error.value)
    assert str(ablated.checkpoint) not in str(error.value)
    trained.folder.mkdir(parents=True)
    trained.checkpoint.touch()
    assert [run.key for run in planned(ablate=True)] == [trained.key]


def test_results_of_other_settings_are_not_mixed(planned, record, tmp_path):
    append_records(tmp_path / 'results.csv', [record(metric=LAST_METRIC)])
    with pytest.raises(StudyError, match=r'plain/seed0 \(\w+ now, 01234567 there\).*--csv'):
        planned()


@pytest.mark.parametrize(
    ('settings', 'gpus', 'remedies'),
    [
        ('auto_scale_lr = dict(base_batch_size=8)', 4, []),
        ('auto_scale_lr = dict(base_batch_size=8)', 2, ['give --gpus 4']),
        ('auto_scale_lr = dict(base_batch_size=7)', 2, ['change its batch size']),
        ('auto_scale_lr = dict(base_batch_size=8, enable=True)', 2, []),
        ('', 2, []),
        (
            'auto_scale_lr = dict(base_batch_size=8)\n'
            'optim_wrapper = dict(accumulative_counts=2)',
            2,
            [],
        ),
    ],
)
def test_processes_that_do_not_fit_the_learning_rate(
    planned, tmp_path, settings, gpus, remedies
):
    with open(tmp_path / 'plain.py', 'a') as config:
        config.write(f'train_dataloader = dict(batch_size=2)\n{settings}\n')
    messages = other_batch_sizes(planned(rows=['plain'], gpus=gpus))
    assert [message.split(': ')[-1] for message in messages] == remedies


# --- what a run leaves behind ---------------------------------------------------------


def test_measured(planned, monkeypatch):
    (run,) = planned(rows=['plain'])
    (run.folder / 'test/now').mkdir(parents=True)
    (run.folder / 'test/now/metrics.json').write_text(json.dumps(dict(mIoU=50.0, time=1.0)))
    (run.folder / 'distances.json').write_text('{"cos_att": 0.5, "cos_output": null}')
    # Shorter than the interval of the logger.
    common = dict(mIoU=50.0, cos_att=0.5)
    assert math.isnan(measured(run, on_gpu=False)['train_seconds'])
    run.save_state(dict(peak_memory_mib=100.0, train_seconds=7.0))
    expected = dict(common, peak_memory_mib=100.0, train_seconds=7.0)
    assert measured(run, on_gpu=False) == expected
    assert measured(run, on_gpu=True) == dict(common, train_seconds=7.0)
    lines = [dict(step=50, time=0.2, memory=7), dict(step=100, time=0.4, memory=9)]
    monkeypatch.setattr(run, 'log_lines', lambda: lines)
    found = measured(run, on_gpu=True)
    assert found['peak_memory_mib'] == 9 and found['train_seconds'] == pytest.approx(30)


@pytest.mark.parametrize(
    ('trained', 'expected'),
    [(['old', 'new'], 'old; new'), (['old'], 'old; new'), ([], 'new')],
)
def test_revisions_of_training_and_measurement(planned, monkeypatch, trained, expected):
    monkeypatch.setattr(module, 'git_revision', lambda: 'new')
    (run,) = planned(rows=['plain'])
    run.folder.mkdir(parents=True)
    run.save_state(dict(revisions=trained))
    assert Job(run).records(dict(mIoU=50.0))[0].revision == expected


# --- jobs, in this process ------------------------------------------------------------


def test_run_that_fails_stops_no_other(planned, tmp_path, monkeypatch, capsys):
    def measure(job, lock):
        if job.run.row.name == 'plain':
            raise RunFailed('no luck')
        return {'mIoU': 1 / 3, LAST_METRIC: 1.0}

    monkeypatch.setattr(Job, 'measure', measure)
    runs = planned(cluster='debug')
    assert carry_out(runs, runs[0].execution) == {'plain, seed 0': 'no luck'}
    printed = capsys.readouterr().out
    assert 'failed: plain, seed 0; 1 of 2 runs left' in printed
    assert 'done: wide, seed 0; 0 of 2 runs left' in printed
    records, _ = read_records(tmp_path / 'results.csv')
    assert list(records.row) == ['wide', 'wide'] and records.value[0] == 0.3333333
    assert [run.name for run in planned()] == ['plain, seed 0']


def test_run_of_another_process_is_not_done_twice(planned, monkeypatch, record, tmp_path):
    """It waits until the other process has ended, and finds the results."""
    monkeypatch.setattr(Job, 'measure', lambda *_: {LAST_METRIC: 1.0})
    runs = planned(cluster='debug')
    first = runs[0]
    results = [record(metric=LAST_METRIC, settings=first.settings)]
    lock = locked(first.folder / 'lock')
    lock.__enter__()

    def end():
        until(runs[1].is_done)  # the other run comes first
        append_records(tmp_path / 'results.csv', results)
        lock.__exit__(None, None, None)

    assert Job(first)() == 'another process works on it'
    thread = threading.Thread(target=end)
    thread.start()
    assert carry_out(runs, first.execution) == {}
    thread.join()
    assert list(read_records(tmp_path / 'results.csv')[0].row) == ['wide', 'plain']


def test_gpus_are_shared_out(planned, monkeypatch):
    monkeypatch.setattr('torch.cuda.is_available', lambda: True)
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '3,5,6,7')
    seen = []
    monkeypatch.setattr(Job, 'measure', lambda job, _: seen.append(job.gpus) or {})
    runs = planned(cluster='debug', jobs=2, gpus=2)
    assert carry_out(runs, runs[0].execution) == {}
    assert seen == ['3,5', '6,7']
    runs = planned(cluster='debug', jobs=3, gpus=2)
    with pytest.raises(StudyError, match='--jobs 3 of --gpus 2 each need 6 GPUs'):
        carry_out(runs, runs[0].execution)


def test_no_slurm_or_one_that_refuses(planned, monkeypatch, tmp_path):
    runs = planned(cluster='slurm')
    monkeypatch.setenv('PATH', str(tmp_path))
    with pytest.raises(StudyError, match='--cluster slurm: .*srun'):
        carry_out(runs, runs[0].execution)
    slurm = Slurm(tmp_path / 'slurm')
    (slurm.folder / 'sbatch').write_text('#!/bin/sh\necho no such partition >&2\nexit 1\n')
    monkeypatch.setenv('PATH', slurm.environment['PATH'])
    with pytest.raises(StudyError, match='--cluster slurm: .*no such partition'):
        carry_out(runs, runs[0].execution)
