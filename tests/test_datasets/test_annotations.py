"""Annotations that do not belong to their classes, their images, or their split."""

import json
import shutil

import pytest
from mmengine.config import Config

from mmgcnl.datasets.inspection import inspect_data
from tests.builders import draw_squares, write_detector, write_segmentor


@pytest.fixture
def root(tmp_path):
    draw_squares(tmp_path / 'squares')
    return tmp_path / 'squares'


@pytest.fixture
def detector(tmp_path, root) -> Config:
    """Trained on boxes.json, validated and tested on the copy val.json."""
    content = json.loads((root / 'boxes.json').read_text())
    for name, part in (('boxes', content['images'][:3]), ('val', content['images'][3:])):
        (root / f'{name}.json').write_text(json.dumps(dict(content, images=part)))
    cfg = Config.fromfile(write_detector(tmp_path / 'detector.py', root))
    for name in ('boxes', 'val'):
        change(root / f'{name}.json', keep_own_annotations)
    for split in ('val', 'test'):
        cfg[f'{split}_dataloader'].dataset.ann_file = 'val.json'
    return cfg


@pytest.fixture
def segmentor(tmp_path, root) -> Config:
    return Config.fromfile(write_segmentor(tmp_path / 'segmentor.py', root))


def keep_own_annotations(content):
    ids = {image['id'] for image in content['images']}
    content['annotations'] = [a for a in content['annotations'] if a['image_id'] in ids]


def change(path, function):
    content = json.loads(path.read_text())
    function(content)
    path.write_text(json.dumps(content))


def look(cfg):
    """All faults and all notes."""
    reports = list(inspect_data(cfg))
    return tuple(
        [f'{r.name}: {line}' for r in reports for line in getattr(r, kind)]
        for kind in ('faults', 'notes')
    )


def set_classes(cfg, classes, splits=('train', 'val', 'test')):
    for split in splits:
        cfg[f'{split}_dataloader'].dataset.metainfo = dict(
            classes=classes, palette=[(0, 0, 0)] * len(classes)
        )


def test_faultless(detector, segmentor):
    assert look(detector) == ([], [])
    assert look(segmentor) == ([], [])


def test_sizes_may_be_floats(detector, root):
    def change_sizes(content):
        for image in content['images']:
            image.update(width=float(image['width']), height=float(image['height']))

    for name in ('boxes', 'val'):
        change(root / f'{name}.json', change_sizes)
    assert look(detector) == ([], [])


@pytest.mark.parametrize(
    ('part', 'changes', 'message'),
    [
        (
            'images',
            dict(width=None),
            'train.json: no valid width and height in 1 of 3 images: 1.png',
        ),
        ('annotations', dict(bbox=[]), 'annotation 1 of 1.png: not as in COCO'),
        ('annotations', dict(segmentation=[[1, 2, 3]]), '1 of 1.png: not as in COCO'),
        ('categories', dict(id=None), "lacks 'id'"),
    ],
)
def test_malformed_entries(detector, root, part, changes, message):
    def spoil(content):
        entry = content[part][0]
        entry.update(changes)
        for key in [key for key, value in entry.items() if value is None]:
            del entry[key]

    (root / 'boxes.json').rename(root / 'train.json')
    detector.train_dataloader.dataset.ann_file = 'train.json'
    change(root / 'train.json', spoil)
    faults, _ = look(detector)
    assert any(message in fault for fault in faults), faults


class TestClasses:
    def test_that_the_file_lacks(self, detector, root):
        set_classes(detector, ('square', 'circle'))
        (train, val), notes = look(detector)
        assert train.startswith(f'train: {root}/boxes.json has no category circle')
        assert val.startswith(f'val, test: {root}/val.json has no category circle')
        assert notes == ['train: no objects of 1 (circle) of the 2 classes']

    def test_that_metainfo_lacks(self, detector, root):
        for name in ('boxes', 'val'):
            change(root / f'{name}.json', self.add_disc)
        faults, (train, val) = look(detector)
        assert faults == []
        assert 'does not name' in train and train.endswith('disc (1)')
        assert 'does not name' in val and val.endswith('disc (1)')

    def test_in_another_order(self, detector, root):
        for name in ('boxes', 'val'):
            change(root / f'{name}.json', self.add_disc)
        set_classes(detector, ('disc', 'square'))
        (train, _), _ = look(detector)
        assert train == (
            'train: metainfo.classes is (disc, square), but mmdet numbers the classes in '
            f'the order of {root}/boxes.json: give (square, disc)'
        )

    @staticmethod
    def add_disc(content):
        content['categories'].append(dict(id=2, name='disc'))
        first = content['annotations'][0]
        content['annotations'].append(dict(first, id=99, category_id=2))

    @pytest.mark.parametrize('split', ['train', 'val'])
    def test_metainfo_forgotten(self, detector, split):
        """mmdet then takes COCO's 80 classes."""
        del detector[f'{split}_dataloader'].dataset['metainfo']
        faults, _ = look(detector)
        assert any('has no category person, bicycle, car, ...' in f for f in faults)
        assert any('are the classes here, and' in fault for fault in faults)

    def test_metainfo_forgotten_for_label_maps(self, segmentor):
        for split in ('train', 'val', 'test'):
            del segmentor[f'{split}_dataloader'].dataset['metainfo']
        faults, _ = look(segmentor)
        assert faults[0].startswith('train, val, test: no class names: set metainfo')

    def test_name_without_comma(self, detector):
        set_classes(detector, 'square')
        faults, _ = look(detector)
        assert "metainfo.classes is the text 'square': give a tuple" in faults[0]

    def test_that_no_label_has(self, segmentor):
        set_classes(segmentor, ('ground', 'square', 'disc'))
        faults, notes = look(segmentor)
        assert faults == []
        assert notes == ['train, val, test: no pixels of 1 (disc) of the 3 classes']


class TestAnnotations:
    @pytest.mark.parametrize(
        'changes, fault',
        [
            (dict(bbox=[20, 4, 16, 16]), 'the box [20, 4, 16, 16] is not inside the image'),
            (
                dict(segmentation=[[0, 0, 40, 0, 40, 20]]),
                'the mask is not inside the image, 32x32',
            ),
            (
                dict(segmentation=dict(size=[32, 30], counts=[960])),
                'the mask is 30x32, but the image 32x32',
            ),
            (dict(category_id=7), 'there is no category 7'),
            (dict(image_id=77), 'there is no image 77'),
        ],
    )
    def test_that_do_not_fit(self, detector, root, changes, fault):
        change(root / 'boxes.json', lambda c: c['annotations'][0].update(changes))
        if 'image_id' in changes:  # which mmdet does not load
            change(
                root / 'boxes.json',
                lambda c: c['annotations'].append(
                    dict(c['annotations'][1], id=50, image_id=1)
                ),
            )
        (found,), _ = look(detector)
        assert found.startswith(f'train: {root}/boxes.json: annotation 1')
        assert fault in found

    def test_a_pixel_outside_is_rounding(self, detector, root):
        change(
            root / 'boxes.json',
            lambda c: c['annotations'][0].update(bbox=[-0.5, 16, 16.5, 16.7]),
        )
        assert look(detector) == ([], [])

    def test_box_without_area(self, detector, root):
        change(
            root / 'boxes.json',
            lambda c: c['annotations'].append(
                dict(c['annotations'][0], id=9, bbox=[3, 3, 0, 4])
            ),
        )
        faults, (note,) = look(detector)
        assert faults == []
        assert '1 annotations have a box without area and are left out: 9' in note


class TestImages:
    def test_in_two_splits(self, detector, root):
        """By content: the copy has another name and another file format."""
        shutil.copy(root / 'images/1.png', root / 'images/copy.png')
        change(root / 'val.json', lambda c: c['images'][0].update(file_name='copy.png'))
        faults, (note,) = look(detector)
        assert faults == []
        assert note == (
            'val, test: 1 of the images are also training images: '
            f'{root}/images/copy.png = {root}/images/1.png'
        )

    def test_with_another_suffix(self, segmentor, root):
        shutil.copy(root / 'images/1.png', root / 'images/6.jpeg')
        faults, (note,) = look(segmentor)
        assert faults == []
        assert f'1 images in {root}/images do not end with .png and are left out' in note
