"""Studies from end to end: tiny models on drawn squares."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from mmgcnl.studies import read_records

TOOLS = Path(__file__).parents[2] / 'tools'
# Chance in everything that is trained; a map of 4 x 4 cells, for the distances.
MODEL = """
_base_ = {base!r}
custom_imports = dict(imports=['mmgcnl', 'events'], allow_failed_imports=False)
custom_hooks = [dict(type='Events')]
model = dict(
    backbone=dict(init_cfg=None, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4)),
    decode_head=dict(dropout_ratio=0.1, block=dict(attn_drop_rate=0.1, init='xavier')))
train_dataloader = dict(num_workers=1, dataset=dict(pipeline=[
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs')]))
default_hooks = dict(checkpoint=dict(interval=3))
train_cfg = dict(max_iters=8)
val_dataloader = None
val_cfg = None
val_evaluator = None
"""
# Where a training waits or dies, and which images it gets.
EVENTS = """
import os, signal, time
from pathlib import Path
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class Events(Hook):
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == int(os.environ.get('DIE', -1)):
            os.kill(os.getpid(), signal.SIGKILL)
        while runner.iter == 5 and os.environ.get('WAIT') and not Path('go').exists():
            Path('waiting').touch()
            time.sleep(0.1)
        with open(Path(runner.work_dir) / 'images.txt', 'a') as file:
            for sample, image in zip(data_batch['data_samples'], data_batch['inputs']):
                print(runner.iter, sample.img_path, image.float().mean().item(), file=file)
"""
METRICS = {'aAcc', 'mIoU', 'mAcc', 'train_seconds', 'seconds_per_iteration'}
DISTANCES = {'cos_input', 'cos_output', 'cos_att', 'cos_input_initial', 'cos_att_initial'}
# Of time and of the machine: not the same when a run is repeated.
VARY = ('train_seconds', 'seconds_per_iteration', 'peak_memory_mib')


@pytest.fixture
def study(tmp_path, segmentor, monkeypatch):
    """Path of a study with two rows that work and one that does not."""
    (tmp_path / 'model.py').write_text(MODEL.format(base=str(segmentor)))
    (tmp_path / 'events.py').write_text(EVENTS)
    monkeypatch.syspath_prepend(tmp_path)
    block = 'model.decode_head.block'
    content = dict(
        study='squares',
        seeds=[0],
        csv=str(tmp_path / 'squares.csv'),
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
    path = tmp_path / 'squares.yml'
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


@pytest.fixture
def start(tmp_path):
    """Start tools/study.py in a process of its own."""
    processes = []

    def start(*arguments, **environment):
        defaults = dict(
            CUDA_VISIBLE_DEVICES='',
            OMP_NUM_THREADS='1',
            PYTHONPATH=f'{TOOLS.parent}:{tmp_path}',
        )
        process = subprocess.Popen(
            [sys.executable, TOOLS / 'study.py', *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, **defaults, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
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


def until(path, process):
    deadline = time.monotonic() + 600
    while not path.exists():
        assert process.poll() is None and time.monotonic() < deadline, end(process)
        time.sleep(0.1)


def measured(csv):
    """Values by row and metric, each appended once."""
    records, broken = read_records(csv)
    assert not broken
    found = {(r.row, r.metric): r.value for r in records}
    assert len(found) == len(records)
    return found


def steady(csv):
    return {key: v for key, v in measured(csv).items() if key[1] not in VARY}


def weights(folder):
    return torch.load(folder / 'iter_8.pth', weights_only=False)['state_dict']


def test_run_report_and_ablate(study, start, tmp_path):
    csv = tmp_path / 'squares.csv'
    status, output = end(start('run', study, '--jobs', 2))
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
    record = read_records(csv)[0][0]
    assert (record.seed, record.threads, record.attention) == (0, 1, 'auto')
    assert 'torch' in record.versions and record.revision

    # All rows of a seed see the same images, in the same order and augmented alike.
    folders = [tmp_path / f'work_dirs/studies/squares/{r}/seed0' for r in ('ours', 'plain')]
    one, other = ((folder / 'images.txt').read_text() for folder in folders)
    assert one == other and len(one.splitlines()) == 16

    # What is done is not done again, and the failed run is tried again.
    before = csv.read_bytes()
    checkpoint = (folders[0] / 'iter_8.pth').stat().st_mtime_ns
    status, output = end(start('run', study))
    assert status == 1 and '2 of 3 runs are done' in output
    assert csv.read_bytes() == before
    assert (folders[0] / 'iter_8.pth').stat().st_mtime_ns == checkpoint

    status, output = end(start('ablate', study, '--jobs', 2))
    assert status == 0, output
    found = measured(csv)
    assert ('ours', 'ablate/context-swapped/mIoU') in found
    assert ('plain', 'ablate/attention-uniform/mIoU') in found
    assert ('plain', 'ablate/context-mean/mIoU') not in found
    status, output = end(start('ablate', study))
    assert status == 0 and '0 models to ablate' in output

    status, output = end(start('report', study, '--out', 'new/report.md'))
    assert status == 0, output
    text = (tmp_path / 'new/report.md').read_text()
    assert '2 of 3 runs are done' in text
    assert '| ours − plain | mIoU |' in text
    assert '| ours | position zeroed |' in text
    assert '![every run of squares](report/squares.png)' in text
    assert (tmp_path / 'new/report/squares.png').is_file()

    # A broken line is reported with its number; all others count.
    with open(csv, 'a') as file:
        file.write('squares,ours\n')
    number = len(csv.read_text().splitlines())
    status, output = end(start('report', study))
    assert status == 1 and f'squares.csv, line {number}: 2 cells instead of 10' in output
    assert '| ours | 1 |' in squeezed(output)


def test_killed_training_resumes_exactly(study, start, tmp_path):
    arguments = 'run', study, '--rows', 'ours'
    whole = [*arguments, '--work-dir', 'whole', '--csv', 'whole.csv']
    status, output = end(start(*whole))
    assert status == 0, output
    status, output = end(start(*arguments, DIE='5'))
    assert status == 1 and 'train ended with status -9' in output
    assert not (tmp_path / 'squares.csv').exists()
    status, output = end(start(*arguments))
    assert status == 0, output
    folder = tmp_path / 'work_dirs/studies/squares/ours/seed0'
    assert (
        'Resumed from' in ''.join(path.read_text() for path in folder.glob('*/*.log'))
        or 'iter_3.pth' in (folder / 'train.log').read_text()
    )
    one, other = weights(folder), weights(tmp_path / 'whole/ours/seed0')
    assert all(torch.equal(one[key], other[key]) for key in other)
    assert steady(tmp_path / 'squares.csv') == steady(tmp_path / 'whole.csv')


def test_terminated_study_stops_its_trainings(study, start, tmp_path):
    process = start('run', study, '--rows', 'ours', WAIT='1')
    until(tmp_path / 'waiting', process)
    process.send_signal(signal.SIGTERM)
    time.sleep(2)
    (tmp_path / 'go').touch()  # the training ends its iteration and saves a checkpoint
    status, output = end(process)
    assert status == 130 and 'the same command goes on' in output
    assert (tmp_path / 'work_dirs/studies/squares/ours/seed0/iter_6.pth').is_file()
    status, output = end(start('run', study, '--rows', 'ours'))
    assert status == 0, output
    assert ('ours', 'mIoU') in measured(tmp_path / 'squares.csv')


def test_killed_study_leaves_a_training_that_is_not_disturbed(study, start, tmp_path):
    """The training goes on; the next study waits for it, and tests and measures then."""
    process = start('run', study, '--rows', 'ours', WAIT='1')
    until(tmp_path / 'waiting', process)
    process.kill()
    process.stdout.close()
    process.wait()
    again = start('run', study, '--rows', 'ours')
    other = start('run', study, '--rows', 'ours', 'plain')  # at the same time
    time.sleep(3)
    (tmp_path / 'go').touch()
    for process in (again, other):
        status, output = end(process)
        assert status == 0, output
    assert {row for row, _ in measured(tmp_path / 'squares.csv')} == {'ours', 'plain'}
    folder = tmp_path / 'work_dirs/studies/squares/ours/seed0'
    assert (folder / 'train.log').read_text().count('tools/train.py') == 1


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--rows', 'full'], "no row 'full'; there are 'ours', 'plain', 'broken'"),
        (['--table', '7'], "no table '7'"),
        (['--jobs', '0'], '0: give at least 1'),
        (['--seeds', '-1'], '-1: give a number from 0'),
    ],
)
def test_bad_arguments(study, start, tmp_path, arguments, message):
    status, output = end(start('run', study, *arguments))
    assert status == 2 and message in output
    assert not (tmp_path / 'work_dirs').exists()


def test_other_settings_are_not_mixed(study, start, tmp_path):
    status, output = end(start('run', study, '--rows', 'ours', DIE='1'))
    assert status == 1
    content = yaml.safe_load(study.read_text())
    content['options'] = {'optim_wrapper.optimizer.lr': 0.5}
    study.write_text(yaml.safe_dump(content, sort_keys=False))
    status, output = end(start('run', study, '--rows', 'ours'))
    assert status == 2 and 'trained with other settings' in output
    assert 'ours/seed0' in output


def test_dry_run_of_the_papers_tables(start, tmp_path):
    path = TOOLS.parent / 'configs/paper_tables.yml'
    arguments = '--table', '4', '--gpus', '8', '--dry-run'
    status, output = end(start('run', path, *arguments))
    assert status == 0, output
    assert output.count('dist_train.sh') == 3  # mask-rcnn, BFPN, EBFPN
    assert output.count('dist_test.sh') == 3
    assert 'mask-rcnn_r50_fpn_ebfpn_1x_coco.py 8 --work-dir' in output
    assert not (tmp_path / 'work_dirs').exists()


def test_table_of_the_paper(study, start, tmp_path):
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
    port = str(29600 + os.getpid() % 1000)
    process = start('run', path, '--table', '2', '--gpus', '2', PORT=port)
    status, output = end(process)
    assert status == 0, output
    assert '1 of 1' not in output and '0 of 1 runs are done' in output
    table = squeezed(output)
    assert '| row | seeds | mIoU, paper | mIoU, here |' in table
    assert '| nl | 1 | 47.25 |' in table and '| full | 1 | 51.27 |' in table
