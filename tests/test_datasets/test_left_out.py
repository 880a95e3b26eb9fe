"""What mmdet leaves out of an annotation file is counted, with its reason."""

import re

import pytest
from PIL import Image

from mmgcnl.datasets.loading import build_dataloader
from tests.test_datasets.conftest import change, change_second, look


def add_masks(content):
    for one in content['annotations']:
        x, y, w, h = one['bbox']
        one['segmentation'] = [[x, y, x + w, y, x + w, y + h, x, y + h]]


@pytest.fixture
def with_masks(detector, root):
    """The same data, whose masks are loaded, too."""
    for name in ('boxes', 'val'):
        change(root / f'{name}.json', add_masks)
    for split in ('train', 'val', 'test'):
        detector[f'{split}_dataloader'].dataset.pipeline[1].with_mask = True
    return detector


REASONS = {
    '`area` is 0': dict(area=0),
    '`area` is 0 or less': dict(area=-4),
    '`ignore` is set': dict(ignore=1),
    'less than a pixel wide or high': dict(bbox=[3, 3, 0.6, 9]),
    'a pixel wide or high': dict(bbox=[3, 3, 9, 0]),
    'box is outside of the image': dict(bbox=[40, 3, 9, 9]),
}


@pytest.mark.parametrize('reason', REASONS)
def test_reason_and_first_name(detector, root, start, reason):
    change_second(root, **REASONS[reason])
    _, notes = look(detector)
    assert len(notes) == 2
    assert f'{root}/boxes.json: 1 of 3 annotations are left out, because' in notes[0]
    assert reason in notes[0] and notes[0].endswith(': 2 of 2.png')
    assert '1 of 3 images are background only' in notes[1] and '2.png' in notes[1]
    assert start(detector) == [note.replace('train', 'CocoDataset', 1) for note in notes]
    # mmdet itself agrees.
    dataset = build_dataloader(detector.train_dataloader).dataset
    assert [len(dataset.get_data_info(i)['instances']) for i in range(3)] == [1, 0, 1]


def test_all(detector, root, start):
    change(root / 'boxes.json', lambda c: [a.update(area=0) for a in c['annotations']])
    (fault,), (note, absent) = look(detector)
    assert 'no objects of 1 (square)' in absent
    assert fault == f'train: {root}/boxes.json: all annotations are left out'
    assert '3 of 3 annotations are left out, because their `area` is 0 or less' in note
    assert note.endswith('1 of 1.png, 2 of 2.png, 3 of 3.png')
    with pytest.raises(RuntimeError, match='all annotations are left out'):
        start(detector)


@pytest.mark.parametrize('box', [[0.25, 0.25, 0.5, 0.5], [0, 0, 1, 0.5], [0.5, 0, 0.5, 1]])
def test_fractions_are_a_fault(detector, root, start, box):
    change_second(root, bbox=box)
    with pytest.raises(RuntimeError) as stop:
        start(detector)
    text = str(stop.value)
    assert '1 of 3 annotations have a box in fractions of the image' in text
    assert '2 of 2.png; give x, y, width and height in pixels' in text


def test_a_pixel_in_the_corner_is_no_fraction(detector, root, start):
    change_second(root, bbox=[0, 0, 1, 1])
    assert start(detector) == []


def test_objects_of_other_classes_are_not_counted(detector, root):
    def change_both(content):
        content['categories'].append(dict(id=2, name='disc'))
        content['annotations'][1].update(area=0, category_id=2)

    change(root / 'boxes.json', change_both)
    faults, (note,) = look(detector)
    assert faults == [] and 'disc (1)' in note


def test_a_split_without_objects(detector, root, start):
    change(root / 'val.json', lambda c: c.update(annotations=[]))
    expected = f'{root}/val.json has no annotation of the classes'
    assert look(detector) == ([], [f'val, test: {expected}'])
    assert start(detector, 'val') == [f'CocoDataset: {expected}']


class TestMasks:
    LINE = [[3, 3, 9, 9]]

    @pytest.mark.parametrize('size, right', [([24, 32], True), ([32, 24], False)])
    def test_in_the_size_of_the_image(self, with_masks, root, start, size, right):
        def encode(content):
            content['images'][1].update(height=24, file_name='low.png')
            shape = dict(counts=[100, 20, 24 * 32 - 120], size=size)
            content['annotations'][1].update(bbox=[4, 4, 4, 4], segmentation=shape)

        change(root / 'boxes.json', encode)
        Image.open(root / 'images/2.png').crop((0, 0, 32, 24)).save(root / 'images/low.png')
        if right:
            assert look(with_masks)[0] == [] and start(with_masks) == []
            return
        expected = '1 of 3 annotations have a mask (RLE) of another size than their image: '
        assert expected + '2 of low.png' in look(with_masks)[0][0]
        with pytest.raises(RuntimeError, match='another size than their image: 2 of low'):
            start(with_masks)

    def test_of_two_points(self, with_masks, root, start):
        change_second(root, segmentation=self.LINE)
        note, background = start(with_masks)
        assert 'their mask has no polygon of three points or more: 2 of 2.png' in note
        assert '1 of 3 images' in background

    @pytest.mark.parametrize('number', [float('nan'), float('inf'), 1e9])
    def test_that_would_be_drawn_for_hours(self, with_masks, root, start, number):
        shape = [[3, 3, 9, 3, number, 9]]
        change(
            root / 'boxes.json', lambda c: c['annotations'][0].update(segmentation=shape)
        )
        expected = r'images/1.png: the mask of the object with the corners \[.*: correct or'
        assert any(re.search(expected, fault) for fault in look(with_masks)[0])
        with pytest.raises(RuntimeError, match=expected):
            start(with_masks)

    @pytest.mark.parametrize('shape', [[], None, {}, 'absent'])
    def test_of_no_point(self, with_masks, root, start, shape):
        change_second(root, segmentation=shape)
        if shape == 'absent':
            change(root / 'boxes.json', lambda c: c['annotations'][1].pop('segmentation'))
        with pytest.raises(RuntimeError) as stop:
            start(with_masks)
        text = str(stop.value)
        assert '1 of 3 annotations have no mask (`segmentation`)' in text
        assert '2 of 2.png; give the masks, remove these annotations, or' in text

    @pytest.mark.parametrize('shape', [[], [[3, 3, 9, 9]]])
    def test_do_not_matter_when_boxes_are_loaded(self, detector, root, start, shape):
        change_second(root, segmentation=shape)
        assert look(detector) == ([], []) and start(detector) == []

    def test_of_one_good_polygon_and_one_line(self, with_masks, root, start):
        change_second(root, segmentation=[*self.LINE, [1, 1, 9, 1, 9, 9]])
        assert start(with_masks) == []

    def test_as_run_lengths(self, with_masks, root, start):
        lengths = dict(size=[32, 32], counts=[96, 40, 888])
        change_second(root, segmentation=lengths)
        assert look(with_masks) == ([], []) and start(with_masks) == []
        del lengths['counts']
        change_second(root, segmentation=lengths)
        assert 'no polygon' in start(with_masks)[0]

    def test_of_an_object_that_is_left_out_anyway(self, with_masks, root, start):
        change_second(root, segmentation=[], area=0)
        assert '`area` is 0 or less' in start(with_masks)[0]


def enlarge(root, *images):
    for image in images:
        image.update(width=64, height=64)
        Image.new('RGB', (64, 64)).save(root / 'images' / image['file_name'])


class TestImages:
    @pytest.mark.parametrize(
        'filter_cfg', [dict(filter_empty_gt=True), dict(min_size=40), dict(min_size=32)]
    )
    def test_that_filter_cfg_drops(self, detector, root, start, filter_cfg):
        def empty(content):
            del content['annotations'][1]
            enlarge(root, content['images'][0], content['images'][2])

        change(root / 'boxes.json', empty)
        detector.train_dataloader.dataset.filter_cfg = filter_cfg
        warnings = start(detector)
        if filter_cfg == dict(min_size=32):
            assert warnings == []
        else:
            (warning,) = warnings
            assert '1 of 3 images are left out by filter_cfg=' in warning
            assert str(filter_cfg) in warning and warning.endswith(f'{root}/images/2.png')

    def test_of_data_that_is_tested_stay(self, detector, root, start):
        detector.val_dataloader.dataset.filter_cfg = dict(min_size=40)
        assert start(detector, 'val') == []

    def test_of_a_wrapped_data_set(self, detector, root, start):
        loader = detector.train_dataloader
        loader.dataset.filter_cfg = dict(min_size=40)
        change(root / 'boxes.json', lambda c: enlarge(root, c['images'][1]))
        inner = loader.dataset
        loader.dataset = dict(
            type='RepeatDataset',
            times=2,
            dataset=dict(type='ConcatDataset', datasets=[inner, inner]),
        )
        first, second = start(detector)
        assert first == second and '2 of 3 images are left out by filter_cfg' in first
