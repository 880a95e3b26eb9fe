"""Which runs are left, what they leave behind, and their jobs."""

import json
import math
import os
import signal
import sys
import threading

import cloudpickle
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

# Saves a checkpoint at SIGTERM, as tools/train.py does; ends when it is resumed.
TRAIN = """
import signal, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
def stop(*_):
    (folder / 'saved').touch()
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
with open(folder / 'attempts', 'a') as file:
    print('attempt', file=file)
while 'wait' in sys.argv and not (folder / 'saved').exists():
    (folder / 'training').touch()
    time.sleep(0.05)
"""


class QuickJob(Job):
    """Trains nothing: row `plain` ends at once, `wide` when it was interrupted once."""

    def measure(self, lock):
        words = [str(self.run.folder)] + ['wait'] * (self.run.row.name == 'wide')
        self.execute('train', [sys.executable, '-c', TRAIN, *words], lock)
        return dict(mIoU=50.0, train_seconds=1.0)


@pytest.fixture
def planned(study_file, tmp_path, monkeypatch):
    """Plan the runs of a study, whose jobs are quick."""
    monkeypatch.setattr(module, 'Job', QuickJob)
    monkeypatch.setitem(module.POLL, 'slurm', 0.2)
    # Jobs are processes of their own, which do not import tests.
    cloudpickle.register_pickle_by_value(sys.modules[__name__])

    def planned(rows=('plain', 'wide'), **options):
        execution = Execution(tmp_path, tmp_path, tmp_path / 'results.csv', **options)
        study = read_study(study_file, tmp_path)
        return plan(study, study.select(rows=rows), [0], execution)

    yield planned
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def done(path):
    records, broken = read_records(path)
    assert not broken
    return list(records[records.metric == LAST_METRIC].row)


def attempts(run):
    return (run.folder / 'attempts').read_text().count('attempt')


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


# --- jobs -----------------------------------------------------------------------------


def test_run_that_fails_stops_no_other(planned, tmp_path, monkeypatch, capsys):
    def fail(job, lock):
        raise RunFailed('no luck')

    monkeypatch.setattr(QuickJob, 'measure', fail)
    (first, _) = runs = planned(cluster='debug')
    monkeypatch.setattr(first, 'is_done', lambda: True)  # meanwhile, by another process
    assert carry_out(runs, runs[0].execution) == {'wide, seed 0': 'no luck'}
    assert 'failed: wide, seed 0; 0 of 2 runs left' in capsys.readouterr().out


def test_run_of_another_process_is_left_to_the_end(planned, tmp_path):
    runs = planned(cluster='debug', rows=['plain'])
    with locked(runs[0].folder / 'lock'):
        thread = threading.Timer(1, lambda: append_records(tmp_path / 'results.csv', []))
        thread.start()
        assert Job(runs[0])() == 'another process works on it'
        thread.join()


def test_jobs_on_this_machine(planned, tmp_path):
    """Interrupted, a study stops its trainings, which are resumed by the next."""
    runs = planned()

    def interrupt():
        until((runs[1].folder / 'training').exists)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        carry_out(runs, runs[0].execution)
    thread.join()
    assert (runs[1].folder / 'saved').exists()
    assert done(tmp_path / 'results.csv') == ['plain']
    assert carry_out(planned(), runs[0].execution) == {}
    assert done(tmp_path / 'results.csv') == ['plain', 'wide']
    assert [attempts(run) for run in runs] == [1, 2]


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    slurm = Slurm(tmp_path / 'slurm')
    for name, value in slurm.environment.items():
        monkeypatch.setenv(name, value)
    yield slurm
    slurm.end()


def test_jobs_of_slurm(planned, tmp_path, slurm):
    """They outlive the study, which finds them again, and are resumed when preempted."""
    options = dict(cluster='slurm', jobs=2, gpus=4, minutes=60, sbatch=dict(partition='P'))
    runs = planned(**options)

    def interrupt():
        until((runs[1].folder / 'training').exists)
        until(lambda: done(tmp_path / 'results.csv'))
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        thread = threading.Thread(target=interrupt)
        thread.start()
        carry_out(runs, runs[0].execution)
    thread.join()
    plain, wide = slurm.submitted
    script = slurm.script(plain)
    for option in (
        'partition=P',
        'gpus-per-node=4',
        'time=60',
        'requeue',
        'job-name=small',
    ):
        assert f'#SBATCH --{option}\n' in script
    assert done(tmp_path / 'results.csv') == ['plain']

    preempt = threading.Timer(2, slurm.signal, (wide, signal.SIGUSR2))
    preempt.start()
    assert carry_out(planned(**options), runs[0].execution) == {}
    preempt.join()
    assert slurm.submitted == [plain, wide]
    assert (runs[1].folder / 'saved').exists() and attempts(runs[1]) == 2
    assert done(tmp_path / 'results.csv') == ['plain', 'wide']


def test_no_slurm(planned, monkeypatch, tmp_path):
    monkeypatch.setenv('PATH', str(tmp_path))
    runs = planned(cluster='slurm')
    with pytest.raises(StudyError, match='--cluster slurm: .*srun'):
        carry_out(runs, runs[0].execution)
