import json
import pickle
import shutil
from pathlib import Path

import mmcv
import pytest

FROM_SCRATCH = ('--cfg-options', 'model.backbone.init_cfg=None')


@pytest.fixture
def trained(call, tmp_path: Path):
    """Train a config for one iteration and return its checkpoint."""

    def trained(config: Path) -> Path:
        call(
            'train',
            config,
            '--work-dir',
            tmp_path / 'train',
            *FROM_SCRATCH,
            'train_cfg.max_iters=1',
            'randomness.seed=1',
        )
        return tmp_path / 'train/iter_1.pth'

    return trained


def metrics(work_dir: Path) -> dict:
    (log,) = work_dir.glob('*/*.json')
    return json.loads(log.read_text())


def test_segmentor(call, trained, segmentor, tmp_path):
    checkpoint = trained(segmentor)
    call(
        'test',
        segmentor,
        checkpoint,
        '--work-dir',
        tmp_path / 'test',
        '--out',
        tmp_path / 'labels',
        '--show-dir',
        tmp_path / 'drawn',
    )
    assert 0 <= metrics(tmp_path / 'test')['mIoU'] <= 100
    labels = [mmcv.imread(str(f), 'unchanged') for f in (tmp_path / 'labels').iterdir()]
    assert len(labels) == 5
    assert all(label.shape == (32, 32) and label.max() <= 1 for label in labels)
    assert len(list((tmp_path / 'drawn').rglob('*.png'))) == 5


def test_detector(call, trained, detector, tmp_path):
    checkpoint = trained(detector)
    call(
        'test',
        detector,
        checkpoint,
        '--work-dir',
        tmp_path / 'test',
        '--out',
        tmp_path / 'boxes.pkl',
        '--show-dir',
        tmp_path / 'drawn',
    )
    assert 'coco/bbox_mAP' in metrics(tmp_path / 'test')
    predictions = pickle.loads((tmp_path / 'boxes.pkl').read_bytes())
    assert sorted(p['img_id'] for p in predictions) == [1, 2, 3, 4, 5]
    assert len(list((tmp_path / 'drawn').iterdir())) == 5


@pytest.fixture
def twins(tmp_path, squares):
    """Copy the squares into a folder where every image is in two folders."""
    for kind in ('images', 'labels'):
        for folder in 'AB':
            shutil.copytree(squares / kind, tmp_path / 'twins' / kind / folder)
    boxes = json.loads((squares / 'boxes.json').read_text())
    for image in boxes['images']:
        image['file_name'] = f'{"AB"[image["id"] % 2]}/1.png'
    (tmp_path / 'twins/boxes.json').write_text(json.dumps(boxes))
    return tmp_path / 'twins'


def test_images_of_the_same_name(call, trained, segmentor, twins, tmp_path, capsys):
    checkpoint = trained(segmentor)
    root = f'test_dataloader.dataset.data_root={twins}'
    call(
        *('test', segmentor, checkpoint, '--work-dir', tmp_path / 'test'),
        *('--out', tmp_path / 'labels', '--cfg-options', root),
    )
    files = sorted(str(p.relative_to(tmp_path)) for p in (tmp_path / 'labels').rglob('*'))
    expected = [f'labels/{folder}/{i}.png' for folder in 'AB' for i in range(1, 6)]
    assert files == ['labels/A', *expected[:5], 'labels/B', *expected[5:]]
    capsys.readouterr()
    with pytest.raises(SystemExit, match='2'):  # of mmseg's metric, by file name
        call(
            *('test', segmentor, checkpoint, '--work-dir', tmp_path / 'again'),
            *('--cfg-options', root, f'test_evaluator.output_dir={tmp_path / "flat"}'),
        )
    last = capsys.readouterr().err.splitlines()[-1]
    assert 'would be written to the same one' in last and 'tools/test.py --out' in last
    assert not list((tmp_path / 'flat').iterdir())


def test_pictures_of_the_same_name(call, trained, detector, twins, tmp_path):
    checkpoint = trained(detector)
    call(
        *('test', detector, checkpoint, '--work-dir', tmp_path / 'test'),
        *('--show-dir', tmp_path / 'drawn', '--cfg-options'),
        *(f'test_dataloader.dataset.data_root={twins}', 'test_dataloader.batch_size=2'),
    )
    files = [p.relative_to(tmp_path) for p in (tmp_path / 'drawn').rglob('*.png')]
    assert sorted(map(str, files)) == ['drawn/A/1.png', 'drawn/B/1.png']


def test_tta_averages_the_flips(call, trained, segmentor, tmp_path):
    checkpoint = trained(segmentor)
    call(
        'test',
        segmentor,
        checkpoint,
        '--work-dir',
        tmp_path / 'test',
        '--tta',
        '--out',
        tmp_path / 'flipped',
    )
    assert len(list((tmp_path / 'flipped').iterdir())) == 5


def test_config_of_a_resumed_training(call, trained, segmentor, tmp_path):
    """Such a config says resume=True, which testing must not do."""
    checkpoint = trained(segmentor)
    call(
        'test',
        segmentor,
        checkpoint,
        '--work-dir',
        tmp_path / 'test',
        '--cfg-options',
        'resume=True',
        'train_dataloader.dataset.data_root=/none',
    )
    assert 'mIoU' in metrics(tmp_path / 'test')


def test_options_of_the_validation(call, trained, segmentor, tmp_path, capsys):
    options = ('val_dataloader.dataset.indices=2', 'val_dataloader.batch_size=2')
    call(
        *('test', segmentor, trained(segmentor), '--work-dir', tmp_path / 'test'),
        *('--cfg-options', *options, 'test_dataloader.batch_size=1'),
    )
    notes = [line for line in capsys.readouterr().err.splitlines() if 'note: ' in line]
    assert notes == [
        'note: val_dataloader.dataset.indices has no effect on a test: set '
        'test_dataloader.dataset.indices'
    ]


@pytest.mark.parametrize(
    ('config', 'arguments', 'message'),
    [
        ('segmentor', ['no.pth'], 'checkpoint: no such file: no.pth'),
        ('detector', ['{any}', '--out', 'folder'], '--out: a detector needs a .pkl'),
        ('segmentor', ['{any}', '--out', '{any}/a'], '--out: {any}/a cannot be written: '),
        ('detector', ['{any}', '--out', '{any}/a.pkl'], '--out: {any} cannot be written: '),
        ('detector', ['{any}', '--tta'], '--tta: the config has no tta_model'),
        (
            'segmentor',
            ['{any}', '--cfg-options', 'submission.a=1', '--submission', 's', '--out', 'o'],
            '--out: with --submission, the label maps are in its folder already',
        ),
        (
            'segmentor',
            ['{any}', '--cfg-options', 'data.workers_per_gpu=2', 'evaluaton.metric=mIoU'],
            'reads data.workers_per_gpu (did you mean train_dataloader.num_workers?); nor '
            'evaluaton.metric',
        ),
    ],
)
def test_wrong_input_is_one_line(
    call, request, tmp_path, monkeypatch, capsys, config, arguments, message
):
    monkeypatch.chdir(tmp_path)
    config = request.getfixturevalue(config)
    with pytest.raises(SystemExit) as stop:
        call('test', config, *(w.replace('{any}', str(config)) for w in arguments))
    assert stop.value.code == 2
    assert message.replace('{any}', str(config)) in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / 'work_dirs').exists()
