from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS
from PIL import Image

CONFIG = 'configs/camvid/gcnl_r50-d8_1xb8-20k_camvid-360x480.py'
LOAD = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]


def build(root: Path, split: str = 'train', **kwargs):
    init_default_scope('mmseg')
    return DATASETS.build(
        dict(
            type='CamVidDataset',
            data_root=str(root),
            data_prefix=dict(
                img_path=f'images/{split}', seg_map_path=f'annotations/{split}'
            ),
            pipeline=LOAD,
            **kwargs,
        )
    )


def test_unlabelled_is_ignored_and_nothing_else(camvid_root):
    dataset = build(camvid_root)
    assert len(dataset) == 3
    for i, sample in enumerate(dataset):
        path = camvid_root / 'annotations' / 'train' / f'{i}.png'
        values = np.array(Image.open(path))
        assert (values == 11).any()
        expected = np.where(values == 11, 255, values)
        np.testing.assert_array_equal(sample['gt_seg_map'], expected)


def test_a_subset_of_the_classes(camvid_root):
    dataset = build(camvid_root, metainfo=dict(classes=('road', 'car')))
    assert set(np.unique(dataset[0]['gt_seg_map'])) == {0, 1, 255}
    assert dataset.metainfo['palette'] == [[128, 64, 128], [64, 0, 128]]


def test_sequences(camvid_root):
    dataset = build(camvid_root, sequences=['0', '2'])
    assert [Path(sample['img_path']).name for sample in dataset] == ['0.png', '2.png']
    with pytest.raises(RuntimeError, match=r'no image of the sequences 3, 4 in .*train'):
        build(camvid_root, sequences=['3', '4'])
    with pytest.raises(TypeError, match=r"sequences='0': give a list, \['0'\]"):
        build(camvid_root, sequences='0')


def test_jpeg_images(camvid_root):
    for path in (camvid_root / 'images' / 'val').iterdir():
        Image.open(path).save(path.with_suffix('.jpg'))
        path.unlink()
    dataset = build(camvid_root, 'val')
    names = [Path(sample['img_path']).name for sample in dataset]
    assert names == ['0.jpg', '1.jpg', '2.jpg']


def test_image_without_label_map(camvid_root):
    path = camvid_root / 'annotations' / 'train' / '1.png'
    path.unlink()
    with pytest.raises(RuntimeError, match=f'1.png has no label map.*{path}'):
        build(camvid_root)


def test_data_root_of_the_config(camvid_root, monkeypatch):
    monkeypatch.delenv('CAMVID_ROOT', raising=False)
    assert Config.fromfile(CONFIG).train_dataloader.dataset.data_root == 'data/camvid'
    monkeypatch.setenv('CAMVID_ROOT', str(camvid_root))
    cfg = Config.fromfile(CONFIG)
    init_default_scope('mmseg')
    for split in ('train', 'val', 'test'):
        dataset = DATASETS.build(cfg[f'{split}_dataloader'].dataset)
        assert len(dataset) == 3
        assert f'/images/{split}/' in dataset[0]['data_samples'].img_path
