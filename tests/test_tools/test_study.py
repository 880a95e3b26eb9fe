"""Studies from end to end: tiny models on drawn squares.

The study itself is called in this process where it is not the one that is killed. Its steps
are processes of their own, as always.
"""

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import yaml

import mmgcnl.studies.run
from mmgcnl.studies import read_records
from tests.builders import ROOT, call_tool, write_config, write_segmentor
from tests.slurm import Slurm, until

# Chance in everything that is trained; a map of 4 x 4 cells, for the distances.
MODEL = dict(
    custom_imports=dict(imports=['mmgcnl', 'tests.faults'], allow_failed_imports=False),
    custom_hooks=[dict(type='Faults'), dict(type='Images')],
    model=dict(
        backbone=dict(init_cfg=None, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4)),
        decode_head=dict(dropout_ratio=0.1, block=dict(attn_drop_rate=0.1, init='xavier')),
    ),
    train_dataloader=dict(
        num_workers=1,
        dataset=dict(
            pipeline=[
                dict(type='LoadImageFromFile'),
                dict(type='LoadAnnotations'),
                dict(type='RandomFlip', prob=0.5),
                dict(type='PhotoMetricDistortion'),
                dict(type='PackSegInputs'),
            ]
        ),
    ),
    default_hooks=dict(checkpoint=dict(interval=3)),
    train_cfg=dict(max_iters=8),
    val_dataloader=None,
    val_cfg=None,
    val_evaluator=None,
)
METRICS = {'aAcc', 'mIoU', 'mAcc', 'train_seconds', 'seconds_per_iteration'}
DISTANCES = {'cos_input', 'cos_output', 'cos_att', 'cos_input_initial', 'cos_att_initial'}
# Of time and of the machine: not the same when a run is repeated.
VARY = ('train_seconds', 'seconds_per_iteration', 'peak_memory_mib')
ENVIRONMENT = dict(CUDA_VISIBLE_DEVICES='', OMP_NUM_THREADS='1', PYTHONPATH=str(ROOT))


def write_study(folder: Path, squares: Path) -> Path:
    """Write a study with two rows that work and one that does not."""
    segmentor = write_segmentor(folder / 'segmentor.py', squares)
    write_config(folder / 'model.py', MODEL, str(segmentor))
    block = 'model.decode_head.block'
    content = dict(
        study='squares',
        seeds=[0],
        csv=str(folder / 'squares.csv'),
        rows=dict(
            ours=dict(config='model.py'),
            plain=dict(
                config='model.py', options={block: dict(context=None, position=None)}
            ),
            broken=dict(config='model.py', options={f'{block}.num_heads': 3}),
        ),
        metrics=dict(mIoU=None, cos_att=None),
        primary=[dict(row='ours', than='plain', metric='mIoU')],
    )
    path = folder / 'squares.yml'
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def call(
    folder: Path, *arguments: object, faults: Sequence[tuple] = (), **environment: str
):
    """Call tools/study.py in this process, in a folder.

    Returns:
        Its exit status and what it prints.
    """
    output = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        environment = {**ENVIRONMENT, 'FAULTS': json.dumps(faults), **environment}
        for name, value in environment.items():
            patch.setenv(name, value)
        # CUDA_VISIBLE_DEVICES comes too late for a torch that has looked for GPUs before.
        patch.setattr(torch.cuda, 'is_available', lambda: False)
        with redirect_stdout(output), redirect_stderr(output):
            with pytest.raises(SystemExit) as stop:
                call_tool('study', *arguments)
    print(output.getvalue())
    return stop.value.code, output.getvalue()


class Finished(NamedTuple):
    """A study that was run, and what came out."""

    path: Path
    status: int
    output: str
    weights: dict[str, torch.Tensor]  # of the row ours
    values: dict[tuple[str, str], float]


@pytest.fixture
def study(tmp_path, squares):
    """Path of a study that was not run."""
    return write_study(tmp_path, squares)


@pytest.fixture(scope='module')
def finished(tmp_path_factory, squares):
    folder = tmp_path_factory.mktemp('finished')
    path = write_study(folder, squares)
    status, output = call(folder, 'run', path, '--jobs', 2)
    trained = weights(folder / 'work_dirs/studies/squares/ours/seed0')
    return Finished(path, status, output, trained, steady(folder / 'squares.csv'))


@pytest.fixture
def start(tmp_path):
    """Start tools/study.py in a process of its own."""
    processes = []

    def start(*arguments, faults=()):
        process = subprocess.Popen(
            [sys.executable, ROOT / 'tools/study.py', *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, **ENVIRONMENT, 'FAULTS': json.dumps(faults)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()


def squeezed(output: str) -> str:
    """The output without the spaces that align its tables."""
    return re.sub(' +', ' ', output)


def end(process):
    output, _ = process.communicate(timeout=900)
    return process.returncode, output


def measured(csv):
    """Values by row and metric, each appended once."""
    records, broken = read_records(csv)
    assert not broken and not records.duplicated(['row', 'metric']).any()
    return records.set_index(['row', 'metric']).value.to_dict()


def steady(csv):
    return {key: v for key, v in measured(csv).items() if key[1] not in VARY}


def weights(folder):
    return torch.load(folder / 'iter_8.pth', weights_only=False)['state_dict']


@pytest.mark.slow
def test_run_report_and_ablate(finished):
    study, status, output = finished[:3]
    folder, csv = study.parent, study.with_suffix('.csv')
    # One failing run is reported and does not stop the others.
    assert status == 1
    assert 'failed: broken, seed 0: train ended with status' in output
    assert 'num_heads=3 does not divide' in output
    assert '| ours | 1 |' in squeezed(output)
    found = measured(csv)
    for row in ('ours', 'plain'):
        assert {m for r, m in found if r == row} == METRICS | DISTANCES | {
            'peak_memory_mib'
        }
        assert found[row, 'train_seconds'] > 0 and found[row, 'peak_memory_mib'] > 50
    assert found['ours', 'cos_att_initial'] > 0.001
    assert not [row for row, _ in found if row == 'broken']
    record = read_records(csv)[0].iloc[0]
    assert (record.seed, record.threads, record.attention) == (0, 1, 'auto')
    assert 'torch' in record.versions and record.revision

    # All rows of a seed see the same images, in the same order and augmented alike.
    folders = [folder / f'work_dirs/studies/squares/{r}/seed0' for r in ('ours', 'plain')]
    one, other = ((folder / 'images.txt').read_text() for folder in folders)
    assert one == other and len(one.splitlines()) == 16

    # What is done is not done again, and the failed run is tried again.
    before = csv.read_bytes()
    checkpoint = (folders[0] / 'iter_8.pth').stat().st_mtime_ns
    status, output = call(folder, 'run', study, '--cluster', 'debug')
    assert status == 1 and '2 of 3 runs are done' in output
    assert csv.read_bytes() == before
    assert (folders[0] / 'iter_8.pth').stat().st_mtime_ns == checkpoint

    status, output = call(folder, 'ablate', study, '--cluster', 'debug')
    assert status == 0
    found = measured(csv)
    assert ('ours', 'ablate/context-swapped/mIoU') in found
    assert ('plain', 'ablate/attention-uniform/mIoU') in found
    assert ('plain', 'ablate/context-mean/mIoU') not in found
    status, output = call(folder, 'ablate', study)
    assert status == 0 and '0 models to ablate' in output

    status, output = call(folder, 'report', study, '--out', 'new/report.md')
    assert status == 0
    text = (folder / 'new/report.md').read_text()
    assert '2 of 3 runs are done' in text
    assert '| ours − plain | mIoU |' in text
    assert 'What each prior does in the trained models' in text
    assert '![every run of squares](report/squares.png)' in text
    assert (folder / 'new/report/squares.png').is_file()

    # A broken line is reported with its number; all others count.
    with open(csv, 'a') as file:
        file.write('squares,ours\n')
    number = len(csv.read_text().splitlines())
    status, output = call(folder, 'report', study)
    assert status == 1 and f'squares.csv, line {number}: 2 cells instead of 10' in output
    assert '| ours | 1 |' in squeezed(output)


@pytest.mark.slow
def test_run_ends_as_undisturbed_after_faults(study, start, tmp_path, finished):
    """The same study meets one fault after the other, and ends as if there were none."""
    arguments = 'run', study, '--rows', 'ours'
    folder = tmp_path / 'work_dirs/studies/squares/ours/seed0'

    # The training is killed.
    status, output = call(tmp_path, *arguments, faults=[(0, 0, 5, 'SIGKILL')])
    assert status == 1 and 'train ended with status -9' in output
    assert not (tmp_path / 'squares.csv').exists()

    # The study is changed: its results must not be mixed.
    content = yaml.safe_load(study.read_text())
    options = {'optim_wrapper.optimizer.lr': 0.5}
    study.write_text(yaml.safe_dump({**content, 'options': options}, sort_keys=False))
    status, output = call(tmp_path, *arguments)
    assert status == 2 and 'trained with other settings' in output
    assert 'ours/seed0' in output
    study.write_text(yaml.safe_dump(content, sort_keys=False))

    # The study is interrupted: its training ends the iteration and saves a checkpoint.
    process = start(*arguments, faults=[(0, 0, 4, 'wait')])
    until((tmp_path / 'waiting').exists)
    os.killpg(process.pid, signal.SIGINT)  # all processes get it, as from a terminal
    time.sleep(2)
    (tmp_path / 'go').touch()
    status, output = end(process)
    assert status == 130 and 'the same command goes on' in output
    assert {p.name for p in folder.glob('*.pth')} == {'iter_3.pth', 'iter_5.pth'}

    # The study is killed, and its job is not. The next study waits for the job. Another
    # one at the same time carries out other rows first.
    (tmp_path / 'go').unlink()
    (tmp_path / 'waiting').unlink()
    process = start(*arguments, faults=[(0, 0, 7, 'wait')])
    until((tmp_path / 'waiting').exists)
    process.kill()
    process.stdout.close()
    process.wait()
    again = start(*arguments)
    later = threading.Timer(3, (tmp_path / 'go').touch)
    later.start()
    status, output = call(tmp_path, *arguments, 'broken')
    assert status == 1 and 'failed: broken' in output and 'failed: ours' not in output
    later.join()
    status, output = end(again)
    assert status == 0, output

    assert (folder / 'train.log').read_text().count('tools/train.py') == 3
    # Resumed from iter_3.pth, and from iter_5.pth.
    lines = (folder / 'images.txt').read_text().splitlines()
    iterations = [int(line.split()[0]) for line in lines]
    assert iterations[::2] == [0, 1, 2, 3, 4, 3, 4, 5, 6, 7]
    assert_as_uninterrupted(tmp_path, finished)


@pytest.mark.slow
def test_preempted_under_slurm(study, tmp_path, finished, monkeypatch):
    """Jobs outlive the study, which finds them again, and are resumed when preempted."""
    slurm = Slurm(tmp_path / 'slurm')
    monkeypatch.setitem(mmgcnl.studies.run.POLL, 'slurm', 0.5)
    hold = tmp_path / 'slurm/hold'
    hold.touch()
    arguments = 'run', study, '--rows', 'ours', '--cluster', 'slurm', '--partition', 'P'
    arguments += '--minutes', 60, '--sbatch', 'account=A', 'gpus_per_node=0'

    def interrupt():
        until(lambda: slurm.submitted)
        time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    def preempt():
        until((tmp_path / 'waiting').exists)
        slurm.signal(slurm.submitted[0], signal.SIGUSR2)
        time.sleep(2)
        (tmp_path / 'go').touch()

    def call_while(function):
        thread = threading.Thread(target=function)
        thread.start()
        faults = [(0, 0, 4, 'wait')]
        status, output = call(tmp_path, *arguments, faults=faults, **slurm.environment)
        thread.join()
        return status, output

    try:
        status, output = call_while(interrupt)
        assert status == 130 and 'jobs stay in the queue of Slurm' in output
        hold.unlink()
        assert call_while(preempt)[0] == 0
    finally:
        slurm.end()
    (job,) = slurm.submitted
    options = 'partition=P', 'time=60', 'account=A', 'gpus-per-node=0', 'requeue'
    for option in (*options, 'job-name=squares', 'cpus-per-task=5', 'signal=USR2@120'):
        assert f'#SBATCH --{option}\n' in slurm.script(job)
    folder = tmp_path / 'work_dirs/studies/squares/ours/seed0'
    assert (folder / 'train.log').read_text().count('tools/train.py') == 2
    assert {p.name for p in folder.glob('*.pth')} >= {'iter_5.pth', 'iter_8.pth'}
    assert_as_uninterrupted(tmp_path, finished)


def assert_as_uninterrupted(folder, finished):
    found = weights(folder / 'work_dirs/studies/squares/ours/seed0')
    assert all(torch.equal(found[key], value) for key, value in finished.weights.items())
    expected = {key: v for key, v in finished.values.items() if key[0] == 'ours'}
    assert steady(folder / 'squares.csv') == expected


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (
            ['--rows', 'full'],
            "row 'full' does not exist; there are 'ours', 'plain', 'broken'",
        ),
        (['--table', '7'], "table '7' does not exist; there are ''"),
        (['--jobs', '0'], '0: give a whole number of at least 1'),
        (['--seeds', '-1'], '-1: give a whole number of at least 0'),
        (['--seeds', 'a'], 'a: give a whole number of at least 0'),
        (['--seeds', '2147483648'], '2147483648: give a whole number of at most'),
    ],
)
def test_bad_arguments(study, tmp_path, arguments, message):
    status, output = call(tmp_path, 'run', study, *arguments)
    assert status == 2 and message in output
    assert not (tmp_path / 'work_dirs').exists()


def test_report_of_a_file_that_is_not_there(study, tmp_path):
    status, output = call(tmp_path, 'report', study, '--csv', 'typo.csv')
    assert status == 2 and '--csv: no such file: typo.csv' in output
    status, output = call(tmp_path, 'report', study, '--out', 'report')
    assert status == 2 and 'report: give a name that ends with .md' in output


def test_dry_run_of_the_papers_tables(tmp_path):
    path = ROOT / 'configs/paper_tables.yml'
    arguments = '--table', '4', '--gpus', '8', '--dry-run'
    status, output = call(tmp_path, 'run', path, *arguments)
    assert status == 0
    assert output.count('dist_train.sh') == 3  # mask-rcnn, BFPN, EBFPN
    assert output.count('dist_test.sh') == 3
    assert 'mask-rcnn_r50_fpn_ebfpn_1x_coco.py 8 --work-dir' in output
    assert 'warning' not in output
    assert not (tmp_path / 'work_dirs').exists()


def test_paper_table_with_another_number_of_processes(tmp_path):
    path = ROOT / 'configs/paper_tables.yml'
    status, output = call(tmp_path, 'run', path, '--table', '1', '--gpus', '8', '--dry-run')
    assert status == 0
    assert output.count('the learning rate is for a batch of 8, and --gpus 8') == 8
    assert 'makes one of 16: give --gpus 4' in output


@pytest.mark.slow
def test_table_of_the_paper(study, tmp_path):
    """Two tables with a config in common: it is trained once, in two processes."""
    config = 'model.py'
    (tmp_path / 'other.py').write_text("_base_ = './model.py'\n")
    tables = [
        dict(
            table=name,
            rows=[
                dict(row='nl', config=config, mIoU=47.25, params=1.0),
                dict(row='full', config=other, mIoU=51.27, params=1.0),
            ],
        )
        for name, other in (('1', 'other.py'), ('2', config))
    ]
    path = tmp_path / 'tables.yml'
    path.write_text(yaml.safe_dump(tables))
    arguments = 'run', path, '--table', '2', '--gpus', '2', '--cluster', 'debug'
    status, output = call(tmp_path, *arguments)
    assert status == 0
    assert '1 of 1' not in output and '0 of 1 runs are done' in output
    table = squeezed(output)
    assert '| row | seeds | mIoU, paper | mIoU, here |' in table
    assert '| nl | 1 | 47.25 |' in table and '| full | 1 | 51.27 |' in table
