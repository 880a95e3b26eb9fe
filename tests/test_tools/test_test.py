import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import mmcv
import pytest

from tests.builders import save_random_weights


@pytest.fixture
def evaluate(call, tmp_path: Path) -> Callable[..., None]:
    """Test a config with random weights, with these options, in the work dir 'test'."""

    def evaluate(config: Path, *options: object) -> None:
        weights = save_random_weights(config, **{'model.backbone.init_cfg': None})
        call('test', config, weights, '--work-dir', tmp_path / 'test', *options)

    return evaluate


def metrics(work_dir: Path) -> dict:
    (log,) = work_dir.glob('*/*.json')
    return json.loads(log.read_text())


def test_segmentor(evaluate, segmentor, tmp_path):
    out, drawn = tmp_path / 'labels', tmp_path / 'drawn'
    evaluate(segmentor, '--out', out, '--show-dir', drawn)
    assert 0 <= metrics(tmp_path / 'test')['mIoU'] <= 100
    labels = [mmcv.imread(str(file), 'unchanged') for file in out.iterdir()]
    assert len(labels) == 5
    assert all(label.shape == (32, 32) and label.max() <= 1 for label in labels)
    assert len(list(drawn.rglob('*.png'))) == 5


def test_detector(evaluate, detector, tmp_path):
    out, drawn = tmp_path / 'boxes.pkl', tmp_path / 'drawn'
    evaluate(detector, '--out', out, '--show-dir', drawn)
    assert 'coco/bbox_mAP' in metrics(tmp_path / 'test')
    predictions = pickle.loads(out.read_bytes())
    assert sorted(p['img_id'] for p in predictions) == [1, 2, 3, 4, 5]
    assert len(list(drawn.iterdir())) == 5


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


def test_images_of_the_same_name(evaluate, segmentor, twins, tmp_path, capsys):
    root = f'test_dataloader.dataset.data_root={twins}'
    evaluate(segmentor, '--out', tmp_path / 'labels', '--cfg-options', root)
    files = sorted(str(p.relative_to(tmp_path)) for p in (tmp_path / 'labels').rglob('*'))
    expected = [f'labels/{folder}/{i}.png' for folder in 'AB' for i in range(1, 6)]
    assert files == ['labels/A', *expected[:5], 'labels/B', *expected[5:]]
    capsys.readouterr()
    flat = tmp_path / 'flat'
    with pytest.raises(SystemExit, match='2'):  # of mmseg's metric, by file name
        options = root, f'test_evaluator.output_dir={flat}'
        evaluate(segmentor, '--cfg-options', *options)
    last = capsys.readouterr().err.splitlines()[-1]
    assert 'would be written to the same one' in last and 'tools/test.py --out' in last
    assert not list(flat.iterdir())


def test_pictures_of_the_same_name(evaluate, detector, twins, tmp_path):
    evaluate(
        *(detector, '--show-dir', tmp_path / 'drawn', '--cfg-options'),
        *(f'test_dataloader.dataset.data_root={twins}', 'test_dataloader.batch_size=2'),
    )
    files = [p.relative_to(tmp_path) for p in (tmp_path / 'drawn').rglob('*.png')]
    assert sorted(map(str, files)) == ['drawn/A/1.png', 'drawn/B/1.png']


def test_tta_averages_the_flips(evaluate, segmentor, tmp_path):
    evaluate(segmentor, '--tta', '--out', tmp_path / 'flipped')
    assert len(list((tmp_path / 'flipped').iterdir())) == 5


def test_config_of_a_resumed_training(evaluate, segmentor, tmp_path):
    """Such a config says resume=True, which testing must not do."""
    options = 'resume=True', 'train_dataloader.dataset.data_root=/none'
    evaluate(segmentor, '--cfg-options', *options)
    assert 'mIoU' in metrics(tmp_path / 'test')


def test_options_of_the_validation(evaluate, segmentor, capsys):
    options = ('val_dataloader.dataset.indices=2', 'val_dataloader.batch_size=2')
    evaluate(segmentor, '--cfg-options', *options, 'test_dataloader.batch_size=1')
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
