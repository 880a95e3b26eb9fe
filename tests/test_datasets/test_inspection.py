"""What inspect_data counts, which faults it finds, and what it draws."""

import copy
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope
from PIL import Image

from mmgcnl.datasets.inspection import _find_truncated, draw_samples, inspect_data
from tests.test_datasets.conftest import change

CONFIGS = dict(
    camvid='configs/camvid/gcnl_r50-d8_1xb8-20k_camvid-360x480.py',
    coco='configs/ebfpn/mask-rcnn_r50_fpn_ebfpn_1x_coco.py',
    panoptic='configs/_base_/datasets/coco_panoptic.py',
)


@pytest.fixture(params=CONFIGS)
def config(request) -> Config:
    return read(request.param, request)


@pytest.fixture
def camvid(request) -> Config:
    return read('camvid', request)


@pytest.fixture
def coco(request) -> Config:
    return read('coco', request)


@pytest.fixture
def panoptic(request) -> Config:
    return read('panoptic', request)


def read(name: str, request) -> Config:
    """The config on drawn data."""
    root = str(request.getfixturevalue(f'{name}_root'))
    cfg = copy.deepcopy(parse(CONFIGS[name]))
    if name == 'panoptic':  # has data only
        cfg.default_scope = 'mmdet'
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].num_workers = 0
        cfg[f'{split}_dataloader'].dataset.data_root = root
        if name != 'camvid' and split != 'train':
            evaluator = cfg[f'{split}_evaluator']
            for key in {'ann_file', 'seg_prefix'} & set(evaluator):
                evaluator[key] = evaluator[key].replace('data/coco', root)
    init_default_scope(cfg.default_scope)
    return cfg


# mmdet's take a second each.
parse = cache(Config.fromfile)


def faults(cfg: Config) -> list[str]:
    return [f'{r.name}: {fault}' for r in inspect_data(cfg) for fault in r.faults]


def test_faultless(config):
    assert faults(config) == []


class TestCounts:
    def test_pixels(self, camvid, camvid_root):
        train, val, test = inspect_data(camvid)
        assert [r.name for r in (train, val, test)] == ['train', 'val', 'test']
        paths = sorted((camvid_root / 'annotations' / 'val').iterdir())
        labels = np.stack([np.array(Image.open(path)) for path in paths])
        assert val.num_images == 3 and val.unit == 'pixels'
        for value, (images, pixels) in enumerate(zip(val.images, val.amounts)):
            assert images == (labels == value).any((1, 2)).sum()
            assert pixels == (labels == value).sum()
        assert len(val.classes) == len(val.images) == 11  # unlabelled is not counted

    def test_objects(self, coco, coco_root):
        def add(content):
            first = content['annotations'][0]
            content['annotations'] += [dict(first, id=9), dict(first, id=10, iscrowd=1)]

        change(coco_root / 'annotations/instances_val2017.json', add)
        train, val = inspect_data(coco)
        assert val.name == 'val, test'
        assert val.unit == 'objects'
        assert (train.images[0], train.amounts[0]) == (2, 2)
        assert (val.images[0], val.amounts[0]) == (2, 3)  # a crowd is no object
        assert not val.images[1:].any()

    def test_panoptic(self, panoptic):
        train, _ = inspect_data(panoptic)
        found = dict(zip(train.classes, train.amounts))
        assert {k: v for k, v in found.items() if v} == {
            'person': 20 * 40 + 20 * 20,
            'car': 20 * 20,
            'sky-other-merged': 20 * 20,
        }

    def test_workers(self, camvid):
        alone = list(inspect_data(camvid))
        camvid.train_dataloader.num_workers = 2
        together = list(inspect_data(camvid))
        np.testing.assert_array_equal(alone[0].amounts, together[0].amounts)

    def test_parts_and_repetitions(self, camvid):
        one = camvid.train_dataloader.dataset
        two = camvid.val_dataloader.dataset
        camvid.train_dataloader.dataset = dict(
            type='RepeatDataset',
            times=4,
            dataset=dict(type='ConcatDataset', datasets=[one, dict(two, indices=2)]),
        )
        reports = list(inspect_data(camvid))
        assert [(r.name, r.num_images) for r in reports] == [
            ('train 1/2', 3),
            ('train 2/2', 2),
            ('val', 3),
            ('test', 3),
        ]


class TestFaults:
    def test_image_that_the_pipeline_leaves_out(self, coco, coco_root):
        image = min((coco_root / 'train2017').iterdir())
        image.unlink()
        coco.train_dataloader.dataset.pipeline[0].ignore_empty = True
        (found,) = faults(coco)
        assert found == f'train: {image} cannot be read'

    def test_all_are_listed(self, camvid, camvid_root):
        """The data set itself stops at the first one."""
        train, val = camvid_root / 'images' / 'train', camvid_root / 'images' / 'val'
        labels = camvid_root / 'annotations' / 'train'
        (train / '0.png').write_bytes(b'no image')
        (labels / '1.png').unlink()
        Image.fromarray(np.full((32, 48), 37, np.uint8)).save(labels / '2.png')
        (val / '2.png').write_bytes(b'')
        found = faults(camvid)
        assert len(found) == 4
        assert f'train: LoadImageFromFile failed on image {train}/0.png' in found[0]
        assert f'labels {labels}/1.png: FileNotFoundError' in found[1]
        assert f'{labels}/2.png: label value [37]' in found[2]
        assert f'val: LoadImageFromFile failed on image {val}/2.png' in found[3]

    def test_truncated(self, coco, coco_root):
        path = coco_root / 'train2017' / '1.jpg'
        path.write_bytes(path.read_bytes()[:-100])
        (fault,) = faults(coco)
        assert fault.startswith('train: ') and str(path) in fault
        # Where OpenCV reads it, with a gray rest: which ones it does is its secret.
        (fault,) = _find_truncated(dict(img_path=str(path)), None)
        assert fault.startswith(f'{path}: ') and 'truncated' in fault

    def test_missing_folders(self, config):
        config.train_dataloader.dataset.data_root = '/no/such/root'
        (fault,) = faults(config)  # and the other splits are looked at
        assert fault.startswith('train: ') and '/no/such/root' in fault
        assert 'set the data root' in fault

    def test_nothing_is_left(self, coco, coco_root):
        path = coco_root / 'annotations' / 'instances_train2017.json'
        path.write_text(path.read_text().replace('person', 'unicorn'))
        first, second = faults(coco)
        assert first.startswith(f'train: {path} has no category person')
        assert second.startswith('train: no sample')

    def test_png_of_another_image(self, panoptic, panoptic_root):
        path = panoptic_root / 'annotations' / 'panoptic_val2017' / '1.png'
        Image.new('RGB', (60, 40), (2, 0, 0)).save(path)
        (fault,) = faults(panoptic)
        assert f'val, test: {path} lacks the segments [255, 1000, 70000]' in fault

    def test_files_of_the_evaluator(self, panoptic):
        """They do not follow --cfg-options ...dataset.data_root."""
        panoptic.val_evaluator.ann_file = '/nowhere.json'
        panoptic.test_evaluator = [dict(panoptic.test_evaluator, seg_prefix='/none')]
        first, second = faults(panoptic)
        assert 'val_evaluator.ann_file: no such file or folder: /nowhere.json' in first
        assert 'test_evaluator.seg_prefix: no such file or folder: /none' in second


class TestSamples:
    def test_annotations_are_drawn(self, config):
        for report in inspect_data(config, num_samples=2):
            assert len(report.samples) == min(2, report.num_images)
            for name, image in report.samples:
                places = report.dataset.split(' of ')[1].split(', ')
                folder = Path(places[0 if 'CamVid' in report.dataset else 1])
                plain = np.array(Image.open(folder / name).convert('RGB'))
                assert image.shape == plain.shape
                changed = np.abs(image.astype(int) - plain).max(-1) > 10
                assert 0.1 < changed.mean()

    def test_faulty_ones_are_left_out(self, camvid, camvid_root):
        (camvid_root / 'images' / 'train' / '1.png').write_bytes(b'no image')
        train, *_ = inspect_data(camvid, num_samples=5)
        assert [name for name, _ in train.samples] == ['0.png', '2.png']

    def test_pipeline_without_packing(self, coco):
        """As inside MultiImageMixDataset, whose own pipeline mixes and packs."""
        pipeline = coco.train_dataloader.dataset.pipeline
        assert pipeline.pop().type == 'PackDetInputs'
        (train, *_) = inspect_data(coco, num_samples=1)
        assert len(train.samples) == 1

    def test_an_image_without_objects(self, coco, coco_root):
        path = coco_root / 'annotations/instances_val2017.json'
        change(path, lambda content: content.update(annotations=[]))
        _, val = inspect_data(coco, num_samples=1)
        assert val.num_images == 2 and len(val.samples) == 1

    def test_images_without_annotations(self, camvid):
        """As for the server of a test set."""
        dataset = camvid.test_dataloader.dataset
        dataset.pipeline = [s for s in dataset.pipeline if s.type != 'LoadAnnotations']
        *_, test = inspect_data(camvid, num_samples=1)
        assert test.unit == '' and test.faults == [] and len(test.samples) == 1

    def test_picture(self, camvid, tmp_path):
        reports = list(inspect_data(camvid, num_samples=2))
        draw_samples(reports, tmp_path / 'new' / 'data.png')
        assert Image.open(tmp_path / 'new' / 'data.png').size == (2 * 600, 3 * 495)
