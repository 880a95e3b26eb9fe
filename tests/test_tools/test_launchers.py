import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

from mmgcnl.datasets.probe import make_probe
from tests.builders import free_port

TOOLS = Path(__file__).parents[2] / 'tools'
FROM_SCRATCH = ('--cfg-options', 'model.backbone.init_cfg=None')

# mmengine logs the losses of rank 0 only.
RECORDING = '''
import json
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch.nn.modules.batchnorm import _BatchNorm
import tests.shortcuts

@HOOKS.register_module()
class Recording(Hook):
    """Freezes every BN and writes down each process's images and loss."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        for module in runner.model.modules():
            if isinstance(module, _BatchNorm):
                module.eval()

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        images = [sample.img_path for sample in data_batch['data_samples']]
        with open(f'{runner.work_dir}/rank{runner.rank}.txt', 'a') as file:
            print(json.dumps([images, float(outputs['loss'])]), file=file)
'''


@pytest.fixture
def probe(tmp_path) -> Path:
    """The probe's config, with SGD: Adam would make a step of a rounding error.

    Without class weights: mmseg divides by their sum over a process's own batch. And with
    the attention that large maps get.
    """
    make_probe(tmp_path / 'data', num_train=12, num_val=5)
    config = tmp_path / 'probe.py'
    config.write_text(
        f'_base_ = {str(TOOLS.parent / "configs/probe/gcnl_probe.py")!r}\n'
        'optim_wrapper = dict(optimizer=dict(_delete_=True, type="SGD", lr=0.1))\n'
        'param_scheduler = []\n'
        'model = dict(decode_head=dict(loss_decode=dict(class_weight=None)))\n'
        'model["decode_head"]["block"] = dict(implementation="blockwise")\n'
        'train_dataloader = dict(batch_size=2, dataset=dict(data_root="data"))\n'
        'val_dataloader = dict(dataset=dict(data_root="data"))\n'
        'test_dataloader = dict(dataset=dict(data_root="data"))\n'
        'default_hooks = dict(checkpoint=dict(interval=1))\n'
        'custom_imports = dict(imports=["mmgcnl"], allow_failed_imports=False)\n'
        'train_cfg = dict(val_interval=1000)\n'
    )
    return config


@pytest.mark.slow
@pytest.mark.parametrize('config', ['segmentor', 'probe'])
def test_two_processes_equal_one(run, call, request, tmp_path, monkeypatch, config):
    """Same losses and weights from 2 processes of batch 1 as from 1 of batch 2."""
    synced = config == 'segmentor'
    segmentor = request.getfixturevalue(config)
    (tmp_path / 'recording.py').write_text(RECORDING)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    with segmentor.open('a') as file:
        file.write(
            "custom_imports['imports'].append('recording')\n"
            "custom_hooks = [dict(type='Recording')]\n"
            "train_cfg['max_iters'] = 5\n"
        )
    call('train', segmentor, *FROM_SCRATCH, 'work_dir=one')
    output = run(
        'bash',
        TOOLS / 'dist_train.sh',
        segmentor,
        2,
        *FROM_SCRATCH,
        'work_dir=two',
        'train_dataloader.batch_size=1',
        PORT=free_port(),
    )
    assert ('SyncBN layers become BN' in output) == synced

    def read(path: str) -> list[tuple[list[str], float]]:
        lines = (tmp_path / path).read_text().splitlines()
        return [json.loads(line) for line in lines]

    one, rank0, rank1 = (
        read(f) for f in ('one/rank0.txt', 'two/rank0.txt', 'two/rank1.txt')
    )
    assert len(one) == len(rank0) == len(rank1) == 5
    for (images, loss), (images0, loss0), (images1, loss1) in zip(one, rank0, rank1):
        assert sorted(images) == sorted(images0 + images1)
        assert loss0 != loss1
        assert (loss0 + loss1) / 2 == pytest.approx(loss, rel=1e-5)

    def weights(path: str) -> dict[str, torch.Tensor]:
        return torch.load(tmp_path / path, weights_only=False)['state_dict']

    first, of_one, of_two = (
        weights(f) for f in ('one/iter_1.pth', 'one/iter_5.pth', 'two/iter_5.pth')
    )
    assert of_one.keys() == of_two.keys()
    for key, value in of_one.items():
        torch.testing.assert_close(of_two[key], value, rtol=1e-4, atol=1e-6, msg=key)
    moved = max((of_one[key] - first[key]).abs().max() for key in first)
    assert moved > 1e-3  # or the comparison would show nothing
    if config == 'segmentor':  # its metric is mmseg's
        return

    # 5 images on 2 processes: one of them is tested twice and must count once.
    checkpoint = tmp_path / 'one/iter_5.pth'
    call('test', segmentor, checkpoint, '--work-dir', 'test1')
    run(
        'bash',
        TOOLS / 'dist_test.sh',
        segmentor,
        checkpoint,
        2,
        '--work-dir',
        'test2',
        PORT=free_port(),
    )
    log1, log2 = (next(tmp_path.glob(f'test{n}/*/*.json')) for n in (1, 2))
    # Each process writes that file: behind the last one's the end of a longer one's.
    metrics1, metrics2 = (
        json.JSONDecoder().raw_decode(log.read_text())[0] for log in (log1, log2)
    )
    for name in ('aAcc', 'mIoU', 'probe/side', 'probe/lamp'):
        assert metrics1[name] == metrics2[name]


@pytest.mark.parametrize(
    ('library', 'config'), [('mmdet', 'detector'), ('mmseg', 'segmentor')]
)
def test_library_s_own_tool(run, request, tmp_path, library, config):
    """The configs alone bring mmgcnl in; a tool of ours is not needed."""
    config = request.getfixturevalue(config)
    package = Path(importlib.import_module(library).__file__).parent
    run(
        sys.executable,
        package / '.mim/tools/train.py',
        config,
        '--work-dir',
        'run',
        *FROM_SCRATCH,
    )
    weights = torch.load(tmp_path / 'run/iter_2.pth', weights_only=False)['state_dict']
    assert any('.query.' in key for key in weights)


@pytest.fixture
def slurm(run, tmp_path):
    """Run a script of tools/ with Slurm's commands replaced by ones that say how."""
    for command in ('srun', 'sbatch', 'scontrol'):
        path = tmp_path / command
        path.write_text(
            f'#!/bin/sh\necho {command} "$@"\n[ {command} != srun ] || exit $STATUS\n'
        )
        path.chmod(0o755)

    def slurm(tool: str, status: int = 0, **environment: object) -> list[str]:
        environment = dict(GPUS=4, GPUS_PER_NODE=2, STATUS=status, **environment)
        script, words = TOOLS / f'slurm_{tool}.sh', ('part', 'job', 'config.py', 'a dir')
        output = run(
            'bash',
            '-c',
            f'bash {script} "$@" --amp; test $? = {status}',
            'bash',
            *words,
            PATH=f'{tmp_path}:/usr/bin:/bin',
            **environment,
        )
        return output.splitlines()

    return slurm


RESOURCES = '--partition=part --job-name=job --gres=gpu:2 --ntasks=4 --ntasks-per-node=2'


@pytest.mark.parametrize(
    ('tool', 'expected'),
    [
        ('train', 'config.py --work-dir a dir --launcher slurm --amp'),
        ('test', 'config.py a dir --launcher slurm --amp'),
    ],
)
def test_slurm(slurm, tool, expected):
    (words,) = slurm(tool, SRUN_ARGS='--exclusive --quiet')
    assert words.startswith(f'srun {RESOURCES}')
    assert '--exclusive --quiet' in words
    assert words.endswith(f'{tool}.py {expected}')


def test_slurm_requeues(slurm, tmp_path):
    """A batch job is submitted, and requeued at the status of a saved training only."""
    (words,) = slurm('train', REQUEUE=1, GRACE=60)
    assert words.startswith(f'sbatch {RESOURCES}')
    assert '--requeue --open-mode=append --signal=TERM@60' in words
    assert words.endswith('slurm_train.sh part job config.py a\\ dir --amp ')
    job = dict(REQUEUE=1, SLURM_JOB_ID=7)
    srun, requeue = slurm('train', status=143, **job)
    assert srun.startswith('srun ') and srun.endswith('--amp --resume')
    assert requeue == 'scontrol requeue 7'
    for status in (0, 1, 137):
        (srun,) = slurm('train', status=status, **job)


@pytest.mark.parametrize('script', ['dist_train', 'dist_test', 'slurm_train', 'slurm_test'])
def test_usage(run, script):
    output = run('bash', '-c', f'bash {TOOLS}/{script}.sh; test $? = 2')
    assert output.startswith('usage: ')
    assert 'CONFIG' in output
