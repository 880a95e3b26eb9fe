"""Every tool on images of other numbers of channels and bits than three of eight."""

from pathlib import Path
from typing import NamedTuple

import cv2
import mmcv
import numpy as np
import pytest
from mmengine.config import Config

from mmgcnl.analysis import prediction_panels
from mmgcnl.apis import Inferencer
from mmgcnl.datasets.pictures import to_picture
from tests.builders import save_random_weights, write_segmentor


class Kind(NamedTuple):
    """Images, and how a config loads them."""

    dtype: type
    channels: int
    suffix: str
    load: dict


UNCHANGED = dict(type='LoadImageFromFile', color_type='unchanged')
KINDS = {
    'gray': Kind(np.uint8, 1, '.png', dict(UNCHANGED, color_type='grayscale')),
    'four': Kind(np.uint8, 4, '.png', UNCHANGED),
    'ten': Kind(np.uint8, 10, '.npy', dict(type='LoadArray')),
    'deep': Kind(np.uint16, 3, '.png', dict(UNCHANGED, to_float32=True)),
}


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


@pytest.fixture
def images(tmp_path, kind):
    """Folder of 3 images with one bright square each, in images, and labels."""
    rng = np.random.default_rng(0)
    largest = np.iinfo(kind.dtype).max
    for i in range(3):
        label = np.zeros((32, 40), np.uint8)
        label[4 * i : 4 * i + 12, 3:15] = 1
        image = rng.uniform(0, 0.3, (32, 40, kind.channels)) + 0.5 * label[..., None]
        image = (image * largest).astype(kind.dtype)
        path = tmp_path / 'images' / f'{i}{kind.suffix}'
        path.parent.mkdir(exist_ok=True)
        if kind.suffix == '.npy':
            np.save(path, image)
        else:
            cv2.imwrite(str(path), image)
        mmcv.imwrite(label, str(tmp_path / f'labels/{i}.png'))
    return tmp_path / 'images'


@pytest.fixture
def config(tmp_path, images, kind):
    cfg = Config.fromfile(write_segmentor(tmp_path / 'base.py', tmp_path))
    cfg.custom_imports = dict(imports=['mmgcnl', 'tests.loaders'])
    size = dict(mean=None, std=None) if kind.channels != 3 else {}
    if kind.dtype == np.uint16:
        size = dict(mean=[20000.0] * 3, std=[10000.0] * 3)
    cfg.model.data_preprocessor.update(size=(32, 40), **size)
    strides = dict(strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4))
    cfg.model.backbone.update(in_channels=kind.channels, init_cfg=None, **strides)
    for split in ('train', 'val', 'test'):
        dataset = cfg[f'{split}_dataloader'].dataset
        dataset.img_suffix = kind.suffix
        dataset.pipeline[0] = kind.load
    path = tmp_path / 'config.py'
    cfg.dump(path)
    return path


def test_train_and_test(call, config, kind, tmp_path):
    """With pictures, which must not stop a training."""
    work = ['--work-dir', tmp_path / 'work', '--cfg-options', 'train_cfg.max_iters=1']
    work += ['train_cfg.val_interval=1', 'default_hooks.visualization.interval=1']
    call('train', config, *work)
    assert len(list((tmp_path / 'work').rglob('val_*.png'))) == 3
    weights = tmp_path / 'work/iter_1.pth'
    outputs = ['--out', tmp_path / 'labels_out', '--show-dir', tmp_path / 'drawn']
    call('test', config, weights, '--work-dir', tmp_path / 'test', *outputs)
    assert len(list((tmp_path / 'labels_out').iterdir())) == 3
    drawn = [mmcv.imread(str(p)) for p in (tmp_path / 'drawn').rglob('*.png')]
    assert len(drawn) == 3 and all(picture.std() > 10 for picture in drawn)


def test_check_data(call, config, tmp_path, capsys):
    call('check_data', config, '--out', tmp_path / 'a.png', '--num-samples', 2)
    out = capsys.readouterr().out
    assert 'no fault in 3 images' in out and 'not drawn' not in out
    assert mmcv.imread(str(tmp_path / 'a.png')).std() > 10


def test_get_flops(call, config, kind, capsys):
    call('analysis_tools/get_flops', config, '--shape', 64, 64)
    assert 'params' in capsys.readouterr().out


def test_pictures_of_what_the_model_saw(call, config, images, kind, tmp_path):
    weights = save_random_weights(config)
    path = str(images / f'1{kind.suffix}')
    inferencer = Inferencer(str(config), str(weights), 'cpu', show_progress=False)
    alone = inferencer(path)['predictions'][0]['sem_seg']
    row, (sample,) = prediction_panels(path, None, dict(a=inferencer))
    assert (sample.pred_sem_seg.data[0].numpy() == alone).all()
    image = np.load(path) if kind.suffix == '.npy' else cv2.imread(path, -1)
    assert (row['input'] == to_picture(image)).all()
    tool = 'analysis_tools/visualize_predictions'
    call(tool, config, weights, '--out-dir', tmp_path / 'figures', '--device', 'cpu')
    call(
        'analysis_tools/visualize_attention',
        *(config, weights, path, '--point', '9,9', '--out', tmp_path / 'b.png'),
        *('--ground-truth', tmp_path / 'labels/1.png', '--device', 'cpu'),
    )
    assert (tmp_path / 'b.png').is_file()
    assert len(list((tmp_path / 'figures').iterdir())) == 1


def test_cosine_distance(call, config, capsys):
    weights = save_random_weights(config)
    call('analysis_tools/cosine_distance', config, weights, '--device', 'cpu')
    assert '3 images' in capsys.readouterr().out


def test_infer(call, config, images, kind, tmp_path):
    if kind.suffix == '.npy':  # no image in a folder, but by its name
        images = images / '1.npy'
    weights = save_random_weights(config)
    call('infer', config, weights, images, '--out-dir', tmp_path / 'out', '--device', 'cpu')
    number = 1 if kind.suffix == '.npy' else 3
    assert len(list((tmp_path / 'out/overlays').iterdir())) == number


@pytest.mark.parametrize('kind', [KINDS['four']])
def test_export(call, config, kind, tmp_path, capsys):
    pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    weights = save_random_weights(config)
    out = tmp_path / 'a.onnx'
    tool = 'deployment/export_onnx'
    call(tool, config, weights, '--out', out, '--shape', 32, 40)
    assert f'takes 1 x {kind.channels} x 32 x 40' in capsys.readouterr().out


def test_convert_weights(call, config, kind, tmp_path, capsys):
    """From NLHead to GCNLHead, with a comparison of their outputs."""
    cfg = Config.fromfile(config)
    cfg.model.decode_head.block = dict(num_heads=1)
    cfg.dump(tmp_path / 'ours.py')
    del cfg.model.decode_head.block
    cfg.model.decode_head.type = 'NLHead'
    cfg.dump(tmp_path / 'source.py')
    weights = save_random_weights(Path(tmp_path / 'source.py'))
    tool = 'model_converters/nonlocal_to_gcnl'
    call(tool, tmp_path / 'source.py', weights, tmp_path / 'ours.py', tmp_path / 'a.pth')
    assert 'largest difference of the outputs' in capsys.readouterr().out
