import json
import sys
from pathlib import Path
from urllib.error import URLError

import pytest
import torch

NO_GPU = pytest.mark.skipif(
    torch.cuda.is_available(), reason='is about machines without a GPU'
)
FROM_SCRATCH = ('--cfg-options', 'model.backbone.init_cfg=None')


def read_log(work_dir: Path) -> list[dict]:
    """What was logged in each training step of all runs in ``work_dir``, in order."""
    logs = sorted(work_dir.glob('*/vis_data/scalars.json'))
    lines = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
    return [line for line in lines if 'loss' in line]


def test_trains_a_segmentor(call, segmentor, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call('train', segmentor, *FROM_SCRATCH)
    work_dir = tmp_path / 'work_dirs/segmentor'
    assert (work_dir / 'iter_2.pth').exists()
    assert [entry['step'] for entry in read_log(work_dir)] == [1, 2]


@pytest.mark.parametrize('resume', ['auto', 'path'])
def test_resumes(call, segmentor, tmp_path, resume):
    work_dir = tmp_path / 'run'
    base = ('train', segmentor, '--work-dir', work_dir)
    call(*base, *FROM_SCRATCH)
    at = ['--resume'] if resume == 'auto' else ['--resume', work_dir / 'iter_1.pth']
    call(*base, *at, *FROM_SCRATCH, 'train_cfg.max_iters=3')
    steps = [entry['step'] for entry in read_log(work_dir)]
    assert steps == ([1, 2, 3] if resume == 'auto' else [1, 2, 2, 3])
    # The momentum buffers must be there, too.
    optimizer = torch.load(work_dir / 'iter_3.pth', weights_only=False)['optimizer']
    assert optimizer['state']


def test_auto_scale_lr(call, segmentor, tmp_path):
    call('train', segmentor, '--auto-scale-lr', '--work-dir', tmp_path, *FROM_SCRATCH)
    # lr 0.01 for batches of 16, trained with batches of 2
    assert read_log(tmp_path)[0]['lr'] == pytest.approx(0.01 * 2 / 16)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['no_such.py'], 'config: no such file: no_such.py'),
        (['{config}', '--resume', 'no.pth'], '--resume: no such file: no.pth'),
        (
            ['{config}', '--cfg-options', 'load_from=no.pth'],
            'load_from: no such file: no.pth',
        ),
        (
            ['{config}', '--auto-scale-lr', '--cfg-options', 'auto_scale_lr=None'],
            '--cfg-options auto_scale_lr.base_batch_size=N',
        ),
        (['{config}', '--launcher', 'pytorch'], 'RANK is not set; start with'),
        pytest.param(
            ['{config}', '--launcher', 'slurm'],
            'slurm needs a GPU and none is available',
            marks=NO_GPU,
        ),
        pytest.param(
            ['{config}', '--amp'],
            '--amp needs a GPU and none is available',
            marks=NO_GPU,
        ),
    ],
)
def test_wrong_input_is_one_line(
    call, segmentor, tmp_path, monkeypatch, capsys, arguments, message
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        call('train', *(word.replace('{config}', str(segmentor)) for word in arguments))
    assert stop.value.code == 2
    last_line = capsys.readouterr().err.splitlines()[-1]
    assert 'error: ' in last_line
    assert message in last_line
    assert not (tmp_path / 'work_dirs').exists()


def test_restarts_do_not_begin_at_a_file(call, segmentor, monkeypatch, capsys):
    monkeypatch.setenv('TORCHELASTIC_MAX_RESTARTS', '3')  # as dist_train.sh has it set
    with pytest.raises(SystemExit) as stop:
        call('train', segmentor, '--resume', 'iter_3.pth')
    assert stop.value.code == 2
    assert '--resume iter_3.pth: with MAX_RESTARTS, every' in capsys.readouterr().err


def test_missing_validation_data_stops_before_training(call, segmentor, tmp_path, capsys):
    root = 'val_dataloader.dataset.data_root=/no_such_data'
    with pytest.raises(SystemExit, match='2'):
        call('train', segmentor, '--work-dir', tmp_path, *FROM_SCRATCH, root)
    assert '/no_such_data' in capsys.readouterr().err.splitlines()[-1]
    assert read_log(tmp_path) == []


@pytest.mark.parametrize('config', ['segmentor', 'detector'])
def test_pretrained_weights(call, request, tmp_path, monkeypatch, config):
    """Out of reach, the error gives two ways out, and both work."""
    config = request.getfixturevalue(config)

    def no_network(*args, **kwargs):
        raise URLError('no route to host')

    monkeypatch.setattr('mmengine.runner.checkpoint.load_url', no_network)
    monkeypatch.setitem(sys.modules, 'torchvision', None)
    base = ('train', config, '--work-dir', tmp_path / 'run')
    off = 'model.backbone.init_cfg=None'
    local = 'model.backbone.init_cfg.checkpoint='
    with pytest.raises(RuntimeError) as error:
        call(*base)
    assert isinstance(error.value.__cause__, (ImportError, URLError))
    assert str(error.value.__cause__) in str(error.value)
    assert f'--cfg-options {off},' in str(error.value)
    assert f'--cfg-options {local}/path/to/weights.pth' in str(error.value)

    still = ('optim_wrapper.optimizer.lr=0', 'train_cfg.max_iters=1')
    call(*base, '--cfg-options', off, *still, 'randomness.seed=1')
    trained = torch.load(tmp_path / 'run/iter_1.pth', weights_only=False)['state_dict']
    weights = {
        key.removeprefix('backbone.'): value
        for key, value in trained.items()
        if key.startswith('backbone.')
    }
    file = tmp_path / 'weights.pth'
    torch.save(weights, file)
    call(*base, '--cfg-options', f'{local}{file}', *still, 'randomness.seed=2')
    loaded = torch.load(tmp_path / 'run/iter_1.pth', weights_only=False)['state_dict']
    for key, value in weights.items():
        if 'num_batches_tracked' not in key:
            assert torch.equal(loaded[f'backbone.{key}'], value), key
    assert any(not torch.equal(loaded[key], trained[key]) for key in loaded)


def test_other_number_of_classes_is_one_line(call, segmentor, tmp_path, capsys):
    options = [*FROM_SCRATCH, 'model.decode_head.num_classes=7']
    with pytest.raises(SystemExit, match='2'):
        call('train', segmentor, '--work-dir', tmp_path / 'run', *options)
    last_line = capsys.readouterr().err.splitlines()[-1]
    message = 'model.decode_head.num_classes is 7, but the data set has 2 classes'
    assert 'error: ' in last_line and message in last_line
    assert not list((tmp_path / 'run').glob('*.pth'))
