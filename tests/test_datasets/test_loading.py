"""Each fault of the data is one message that names the file, before training."""

import copy
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from PIL import Image

from mmgcnl.datasets import DataError, build_dataloader, check_dataset
from tests.test_datasets.conftest import change

CAMVID = 'configs/camvid/gcnl_r50-d8_1xb8-20k_camvid-360x480.py'
COCO = 'configs/ebfpn/mask-rcnn_r50_fpn_ebfpn_1x_coco.py'


@pytest.fixture
def camvid(camvid_root) -> Config:
    return read_config(CAMVID, camvid_root)


@pytest.fixture
def mmseg_own(camvid) -> Config:
    """The same files, read by mmseg's class instead of ours."""
    for split in ('train', 'val'):
        dataset = camvid[f'{split}_dataloader'].dataset
        dataset.update(
            type='BaseSegDataset',
            img_suffix='.png',
            metainfo=dict(classes=[str(i) for i in range(11)]),
            ignore_index=11,
        )
    return camvid


@pytest.fixture
def coco(coco_root) -> Config:
    return read_config(COCO, coco_root)


def read_config(path: str, root: Path) -> Config:
    cfg = copy.deepcopy(parse(path))
    init_default_scope(cfg.default_scope)
    for split in ('train', 'val'):
        cfg[f'{split}_dataloader'].update(num_workers=0, persistent_workers=False)
        cfg[f'{split}_dataloader'].dataset.data_root = str(root)
    return cfg


parse = cache(Config.fromfile)


def message(dataloader: dict) -> str:
    with pytest.raises(RuntimeError) as fault:
        build_dataloader(dataloader)
    return str(fault.value)


@pytest.mark.parametrize('name', ['camvid', 'mmseg_own', 'coco'])
@pytest.mark.parametrize('split', ['train', 'val'])
def test_faultless(name, split, request):
    cfg = request.getfixturevalue(name)
    loader = build_dataloader(cfg[f'{split}_dataloader'])
    batch = next(iter(loader))
    assert batch['inputs'][0].shape[0] == 3


class TestMissingFolder:
    @pytest.mark.parametrize('name', ['camvid', 'mmseg_own', 'coco'])
    @pytest.mark.parametrize('split', ['train', 'val'])
    def test_root(self, name, split, request):
        cfg = request.getfixturevalue(name)
        cfg[f'{split}_dataloader'].dataset.data_root = '/no/such/root'
        text = message(cfg[f'{split}_dataloader'])
        assert '/no/such/root' in text
        assert 'set the data root: in the environment' in text

    @pytest.mark.parametrize('split', ['train', 'val'])
    def test_images_of_coco(self, coco, coco_root, split):
        """mmdet misses them at the first image, and val's after an epoch."""
        (coco_root / f'{split}2017').rename(coco_root / 'moved')
        text = message(coco[f'{split}_dataloader'])
        assert f'no such folder: {coco_root}/{split}2017' in text

    @pytest.mark.parametrize('name', ['camvid', 'mmseg_own'])
    def test_empty(self, name, request, camvid_root):
        cfg = request.getfixturevalue(name)
        for path in (camvid_root / 'images' / 'val').iterdir():
            path.unlink()
        text = message(cfg.val_dataloader)
        assert 'no image' in text and str(camvid_root) in text

    def test_no_annotation_of_the_classes(self, coco, coco_root):
        path = coco_root / 'annotations' / 'instances_train2017.json'
        path.write_text(path.read_text().replace('person', 'unicorn'))
        text = message(coco.train_dataloader)
        assert 'none is left after filtering' in text
        assert 'instances_train2017.json' in text


@pytest.mark.parametrize('split', ['train', 'val'])
@pytest.mark.parametrize(
    'content', [b'<html>404</html>', b'', b'PK\x03\x04\x96\xff', b'{"images": [']
)
def test_annotation_file_is_not_json(coco, coco_root, split, content):
    name = f'annotations/instances_{split}2017.json'
    (coco_root / name).write_bytes(content)
    text = message(coco[f'{split}_dataloader'])
    assert 'the annotation file is not JSON' in text
    assert str(coco_root) in text and name in text


def test_annotation_file_with_a_byte_order_mark(coco, coco_root):
    path = coco_root / 'annotations/instances_train2017.json'
    path.write_text('\ufeff' + path.read_text(), encoding='utf-8')
    assert message(coco.train_dataloader).endswith(
        'the annotation file starts with a byte order mark (BOM): save it as UTF-8 without'
    )


@pytest.mark.parametrize('content', ['[]', '{"annotations": {"1": {"id": 1}}}'])
def test_annotation_file_of_another_format(coco, coco_root, content):
    (coco_root / 'annotations/instances_train2017.json').write_text(content)
    text = message(coco.train_dataloader)
    assert "instances_train2017.json is not in COCO's format" in text
    assert 'give an object with the lists images, annotations and categories' in text


@pytest.mark.parametrize('name', ['mmseg_own', 'coco'])
def test_files_that_pil_takes_for_too_large(name, request, monkeypatch):
    cfg = request.getfixturevalue(name)
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)
    next(iter(build_dataloader(cfg.train_dataloader)))
    assert Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.parametrize('num_workers', [0, 1])
def test_image_of_another_size(coco, coco_root, num_workers):
    def scale(content):
        content['images'][1].update(width=640, height=480)

    change(coco_root / 'annotations/instances_train2017.json', scale)
    coco.train_dataloader.num_workers = num_workers
    loader = build_dataloader(coco.train_dataloader)
    with pytest.raises(DataError, match='is 64x48, but 640x480 in the annotation file: re'):
        next(iter(loader))


class TestImageThatDoesNotDecode:
    @pytest.mark.parametrize('content', [b'', b'no image'])
    @pytest.mark.parametrize('name', ['camvid', 'mmseg_own', 'coco'])
    def test_first(self, name, content, request, camvid_root, coco_root):
        path = camvid_root / 'images' / 'val' / '0.png'
        if name == 'coco':
            path = coco_root / 'val2017' / '1.jpg'
        path.write_bytes(content)
        cfg = request.getfixturevalue(name)
        assert f'failed on image {path}' in message(cfg.val_dataloader)

    @pytest.mark.parametrize('num_workers', [0, 1])
    def test_later_without_a_traceback(self, camvid, camvid_root, num_workers):
        path = camvid_root / 'annotations' / 'train' / '1.png'
        Image.fromarray(np.full((32, 48), 37, np.uint8)).save(path)
        camvid.train_dataloader.num_workers = num_workers
        with pytest.raises(DataError) as fault:
            next(iter(build_dataloader(camvid.train_dataloader)))
        assert str(fault.value).startswith(f'{path}: label value [37]')

    def test_label_map(self, mmseg_own, camvid_root):
        path = camvid_root / 'annotations' / 'val' / '0.png'
        path.write_bytes(b'no image')
        text = message(mmseg_own.val_dataloader)
        assert f'LoadAnnotations failed on image {camvid_root}' in text
        assert f'labels {path}' in text


class TestRemedy:
    def test_images_in_folders(self, mmseg_own, coco, coco_root):
        folder = coco_root / 'train2017'
        (folder / 'a').mkdir()
        for path in list(folder.glob('*.jpg')):
            path.rename(folder / 'a' / path.name)
        init_default_scope('mmdet')
        text = message(coco.train_dataloader)
        assert text.endswith(
            f'; it is in {folder}/a: set data_prefix to that, or name the folder with it'
        )

    def test_label_maps_without_the_folder(self, mmseg_own, camvid_root):
        for name in ('images', 'annotations'):
            (camvid_root / name / 'train/b').mkdir()
        images = camvid_root / 'images/train'
        (images / '0.png').rename(images / 'b/0.png')
        mmseg_own.train_dataloader.dataset.img_suffix = '0.png'
        mmseg_own.train_dataloader.dataset.seg_map_suffix = '0.png'
        text = message(mmseg_own.train_dataloader)
        assert f"No such file or directory: '{camvid_root}/annotations/train/b/0" in text
        assert text.endswith('check data_prefix and the suffix, or remove the sample')

    @pytest.mark.parametrize(
        'name, words',
        [
            (
                '\ufeff0',
                'the list of images, ann_file, starts with a byte order mark (BOM)',
            ),
            ('0.png', 'the list of images, ann_file, must give names without .png'),
        ],
    )
    def test_names_of_a_list(self, mmseg_own, camvid_root, name, words):
        (camvid_root / 'train.txt').write_text(name, encoding='utf-8')
        mmseg_own.train_dataloader.dataset.ann_file = 'train.txt'
        assert words in message(mmseg_own.train_dataloader)

    @pytest.mark.parametrize(
        'name, words',
        [
            ('a\\0.jpg', 'names with \\ for folders: write / instead'),
            ('http://a.b/0.jpg', 'is a URL: download the images, and give their names'),
        ],
    )
    def test_names_in_coco(self, coco, coco_root, name, words):
        def rename(content):
            for image in content['images']:
                image['file_name'] = name

        change(coco_root / 'annotations/instances_train2017.json', rename)
        assert message(coco.train_dataloader).endswith(words)

    def test_list_that_is_missing(self, mmseg_own, camvid_root):
        mmseg_own.train_dataloader.dataset.ann_file = 'train.txt'
        with pytest.raises(DataError, match=f'load `ann_file` {camvid_root}/train.txt'):
            build_dataloader(mmseg_own.train_dataloader)

    def test_settings_that_disagree(self, mmseg_own):
        mmseg_own.train_dataloader.dataset.pipeline[1].reduce_zero_label = True
        text = message(mmseg_own.train_dataloader)
        assert 'reduce_zero_label' in text and 'replace the file' not in text


class TestLabelOutsideTheClasses:
    @pytest.mark.parametrize('name', ['camvid', 'mmseg_own'])
    @pytest.mark.parametrize('split', ['train', 'val'])
    def test_first(self, name, split, request, camvid_root):
        cfg = request.getfixturevalue(name)
        path = camvid_root / 'annotations' / split / '0.png'
        labels = np.zeros((32, 48), np.uint8)
        labels[0, 0] = 37  # the training crops it away nearly always
        Image.fromarray(labels).save(path)
        text = message(cfg[f'{split}_dataloader'])
        assert f'{path}: label value [37], but there are 11 classes, 0 to 10' in text

    def test_with_the_data_set_alone(self, camvid, camvid_root):
        """So that it also stops under mmseg's own tools/train.py."""
        path = camvid_root / 'annotations' / 'train' / '0.png'
        Image.fromarray(np.full((32, 48), 37, np.uint8)).save(path)
        with pytest.raises(RuntimeError, match=rf'{path}: label value \[37\]'):
            DATASETS.build(camvid.train_dataloader.dataset)


def test_wrapped_data_sets(camvid, camvid_root):
    dataset = camvid.val_dataloader.dataset
    path = camvid_root / 'images' / 'val' / '2.png'
    wrapped = DATASETS.build(
        dict(
            type='RepeatDataset',
            times=2,
            dataset=dict(type='ConcatDataset', datasets=[dataset, dataset]),
        )
    )
    check_dataset(wrapped)
    path.write_bytes(b'no image')
    with pytest.raises(RuntimeError, match=f'failed on image {path}'):
        wrapped[11]
