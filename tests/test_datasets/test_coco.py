"""Faults of an annotation file that mmdet does not stop at."""

import copy
import re

import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope

from tests.test_datasets.conftest import change, change_second, look

PANOPTIC = 'configs/_base_/datasets/coco_panoptic.py'


def spoil(root, function, *names):
    for name in names or ('boxes', 'val'):
        change(root / f'{name}.json', function)


def test_two_images_with_one_id(detector, root, start):
    def merge(content):
        content['images'][2]['id'] = content['images'][0]['id']
        content['annotations'][2]['image_id'] = content['images'][0]['id']

    spoil(root, merge, 'boxes')
    expected = f'{root}/boxes.json has images with the same id, .*: 1 \\(1.png, 3.png\\); '
    with pytest.raises(RuntimeError, match=f'{expected}number the images anew'):
        start(detector)


def test_an_image_with_two_ids(detector, root, start):
    spoil(root, lambda c: c['images'].append(dict(c['images'][1], id=9)), 'boxes')
    (warning,) = start(detector)
    assert 'boxes.json has images several times' in warning and '2.png (2, 9)' in warning


class TestIdsOfAnnotations:
    @pytest.mark.parametrize('split, name', [('train', 'boxes'), ('val', 'val')])
    def test_that_repeat(self, detector, root, start, split, name):
        def repeat(content):
            content['annotations'][1]['id'] = content['annotations'][0]['id']

        spoil(root, repeat, name)
        expected = f'{root}/{name}.json: annotations have the same id: .*number'
        with pytest.raises(RuntimeError, match=expected):
            start(detector, split)

    @pytest.mark.parametrize(
        'id_, message', [(0, 'an annotation has the id 0'), ('a1', "are texts.*: 'a1'")]
    )
    def test_that_the_evaluator_cannot_use(self, detector, root, start, id_, message):
        spoil(root, lambda content: content['annotations'][0].update(id=id_))
        (fault,), (note,) = look(detector)
        assert fault.startswith('val, test: ') and note.startswith('train: ')
        (warning,) = start(detector)
        assert warning.split(': ', 1)[1] == note.split(': ', 1)[1]
        with pytest.raises(RuntimeError, match=message):
            start(detector, 'val')

    def test_from_one_on(self, detector, start):
        assert look(detector) == ([], [])
        assert start(detector) == start(detector, 'val') == []


class TestCategories:
    @pytest.mark.parametrize(
        'other, message',
        [
            (dict(id=1, name='disc'), r'categories with the same id.*: 1 \(square, disc\)'),
            (
                dict(id=2, name='square'),
                r'categories with one name.*: square \(1, 2\); merge',
            ),
        ],
    )
    def test_that_are_two(self, detector, root, start, other, message):
        spoil(root, lambda content: content['categories'].append(other))
        with pytest.raises(RuntimeError, match=message):
            start(detector)

    def test_with_one_name_that_is_no_class(self, detector, root):
        others = [dict(id=2, name='disc'), dict(id=3, name='disc')]
        spoil(root, lambda content: content['categories'].extend(others))
        faults, _ = look(detector)
        assert faults == []

    def test_misspelt_stops_at_the_start(self, detector, root, start):
        spoil(root, lambda content: content['categories'][0].update(name='Square'))
        with pytest.raises(RuntimeError, match='has no category square.*the file has Squ'):
            start(detector)

    def test_classes_without_comma_are_left_to_another_check(self, detector, start):
        detector.train_dataloader.dataset.metainfo.classes = 'square'
        start(detector)


@pytest.mark.parametrize(
    'changes, message',
    [
        (dict(image_id='2'), 'there is no image of their'),
        (dict(category_id=5), 'the file has no category'),
    ],
)
def test_annotations_of_nothing(detector, root, start, changes, message):
    change_second(root, **changes)
    (warning,) = start(detector)
    assert f'1 annotations are left out, because {message}' in warning


def test_data_without_annotations(detector, root, start):
    spoil(root, lambda content: content.update(annotations=[]))
    (warning,) = start(detector)
    assert warning.endswith('boxes.json has no annotation of the classes')
    (warning,) = start(detector, 'val')  # whose metrics are then -1
    assert warning.endswith('val.json has no annotation of the classes')


class TestMalformed:
    @pytest.mark.parametrize('key', ['area', 'bbox', 'id', 'image_id', 'category_id'])
    def test_lacking_an_entry(self, detector, root, start, key):
        spoil(root, lambda content: content['annotations'][1].pop(key), 'boxes')
        with pytest.raises(RuntimeError, match=key):
            start(detector)

    @pytest.mark.parametrize('key', ['images', 'categories'])
    def test_lacking_a_list(self, detector, root, start, key):
        spoil(root, lambda content: content.pop(key))
        with pytest.raises(RuntimeError, match=f"lacks '{key}'|{key}"):
            start(detector)


class TestPanoptic:
    @pytest.fixture
    def cfg(self, panoptic_root):
        cfg = copy.deepcopy(Config.fromfile(PANOPTIC))
        cfg.default_scope = 'mmdet'
        init_default_scope('mmdet')
        cfg.train_dataloader.update(num_workers=0, persistent_workers=False)
        cfg.train_dataloader.dataset.data_root = str(panoptic_root)
        return Config(dict(default_scope='mmdet', train_dataloader=cfg.train_dataloader))

    def test_faultless(self, cfg, start):
        assert look(cfg)[0] == [] and start(cfg) == []

    @pytest.mark.parametrize(
        'function, message',
        [
            (lambda c: c['images'].append(dict(c['images'][0])), 'images with the same id'),
            (
                lambda c: c['annotations'][0]['segments_info'][1].update(id=1000),
                r'annotations have the same id: \(1, 1000\)',
            ),
        ],
    )
    def test_ids_used_twice(self, cfg, panoptic_root, start, function, message):
        change(panoptic_root / 'annotations/panoptic_train2017.json', function)
        with pytest.raises(RuntimeError, match=message):
            start(cfg)

    def test_segment_id_zero_is_black(self, cfg, panoptic_root, start):
        """It is a colour like others."""
        change(
            panoptic_root / 'annotations/panoptic_train2017.json',
            lambda c: c['annotations'][0]['segments_info'][1].update(id=0),
        )
        assert start(cfg) == []


def test_sizes_may_be_floats(detector, root):
    def change_sizes(content):
        for image in content['images']:
            image.update(width=float(image['width']), height=float(image['height']))

    spoil(root, change_sizes)
    assert look(detector) == ([], [])


@pytest.mark.parametrize(
    ('part', 'changes', 'message'),
    [
        (
            'images',
            dict(width=None),
            'boxes.json: no valid width and height in 1 of 3 images: 1.png',
        ),
        ('annotations', dict(bbox=[]), 'annotation 1 of 1.png: not as in COCO'),
        ('annotations', dict(segmentation=[[1, 2, 3]]), '1 of 1.png: not as in COCO'),
        ('categories', dict(id=None), "lacks 'id'"),
    ],
)
def test_malformed_entries(detector, root, part, changes, message):
    def change_first(content):
        entry = {**content[part][0], **changes}
        content[part][0] = {k: v for k, v in entry.items() if v is not None}

    spoil(root, change_first, 'boxes')
    faults, _ = look(detector)
    assert len([fault for fault in faults if message in fault]) == 1, faults


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
        change_second(root, **changes)
        (found,), _ = look(detector)
        assert found.startswith(f'train: {root}/boxes.json: annotation 2')
        assert fault in found

    def test_a_pixel_outside_is_rounding(self, detector, root):
        change_second(root, bbox=[-0.5, 16, 16.5, 16.7])
        assert look(detector) == ([], [])


class TestBoxes:
    """Boxes that are compared with masks or areas."""

    @staticmethod
    def write(content, function, masks):
        for one in content['annotations']:
            x, y, w, h = one['bbox']
            if masks:
                one['segmentation'] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
            one['area'] = w * h
            one['bbox'] = function(x, y, w, h)

    @pytest.mark.parametrize('masks', [True, False])
    def test_as_corners(self, detector, root, masks):
        one = dict(bbox=[2, 3, 14, 13], area=120)  # inside of the image either way
        one['segmentation'] = [[2, 3, 14, 3, 14, 13, 2, 13]] if masks else []
        spoil(root, lambda c: [other.update(one) for other in c['annotations']], 'boxes')
        (fault,), _ = look(detector)
        assert 'by their masks or areas, 3 of 3 boxes are x1, y1, x2, y2' in fault
        assert fault.endswith('annotations 1, 2, 3; give x, y, width and height')

    def test_as_centres(self, detector, root):
        def move(x, y, w, h):
            return [x + w / 2, y + h / 2, w / 2, h / 2]

        spoil(root, lambda c: self.write(c, move, True), 'boxes')
        faults, (note,) = look(detector)
        assert faults == [] and '3 of 3 boxes are not around the masks' in note

    @pytest.mark.parametrize('masks', [True, False])
    def test_right(self, detector, root, masks):
        spoil(root, lambda c: self.write(c, lambda *box: box, masks))
        assert look(detector) == ([], [])


class TestCrowds:
    def test_text(self, detector, root, start):
        change_second(root, iscrowd='0')
        with pytest.raises(
            RuntimeError, match='`iscrowd` of 1 annotations is a text.*: 2;'
        ):
            start(detector)

    def test_lacking_where_evaluated(self, detector, root, start):
        spoil(root, lambda c: c['annotations'][0].pop('iscrowd'))
        (fault,), _ = look(detector)
        assert fault.startswith('val, test: ') and 'the `iscrowd` of 1 ann' in fault
        assert start(detector) == []
        with pytest.raises(RuntimeError, match='evaluator needs it'):
            start(detector, 'val')

    def test_all(self, detector, root, start):
        spoil(root, lambda c: [one.update(iscrowd=1) for one in c['annotations']], 'boxes')
        with pytest.raises(RuntimeError, match='all annotations are crowds'):
            start(detector)


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_box_that_is_no_number(detector, root, start, value):
    change_second(root, bbox=[2, 2, value, 4])
    with pytest.raises(RuntimeError, match='1 of 3 .* NaN or infinity: 2 of 2.png'):
        start(detector)


@pytest.mark.parametrize('key', ['image_id', 'category_id'])
def test_all_annotations_of_nothing(detector, root, start, key):
    """Ids are numbers in one list, and texts in the other."""

    def to_text(content):
        for one in content['annotations']:
            one[key] = str(one[key])

    spoil(root, to_text, 'boxes')
    with pytest.raises(RuntimeError, match='all annotations are left out'):
        start(detector)


def test_copies_of_annotations(detector, root):
    def copy_one(content):
        content['annotations'].append(dict(content['annotations'][1], id=9))

    spoil(root, copy_one, 'boxes')
    faults, (note,) = look(detector)
    assert faults == []
    assert f'{root}/boxes.json: 1 of 4 annotations are copies of others' in note
    assert note.endswith('box: 9; remove them')


@pytest.mark.parametrize('key', ['bbox', 'area'])
def test_numbers_as_text(detector, root, start, key):
    change_second(root, **{key: dict(bbox=['3', '3', '9', '9'], area='81')[key]})
    words = 'boxes.json: annotation 2 of 2.png: .*bbox or area is a text: give numbers'
    assert any(re.search(words, fault) for fault in look(detector)[0])
    with pytest.raises(RuntimeError, match=words):
        start(detector)


def test_polygon_that_is_in_no_list(detector, root):
    change_second(root, segmentation=[1, 1, 9, 1, 9, 9])
    (fault,), _ = look(detector)
    assert 'annotation 2 of 2.png: ' in fault and 'must be a list of polygons' in fault
