"""What reports say of annotations that do not belong to their classes or their split."""

import pytest

from tests.test_datasets.conftest import change, look


def set_classes(cfg, classes, splits=('train', 'val', 'test')):
    for split in splits:
        cfg[f'{split}_dataloader'].dataset.metainfo = dict(
            classes=classes, palette=[(0, 0, 0)] * len(classes)
        )


def test_faultless(detector, segmentor):
    assert look(detector) == ([], [])
    assert look(segmentor) == ([], [])


class TestClasses:
    def test_that_the_file_lacks(self, detector, root):
        set_classes(detector, ('square', 'circle'))
        (train, val), notes = look(detector)
        assert train.startswith(f'train: {root}/boxes.json has no category circle')
        assert val.startswith(f'val, test: {root}/val.json has no category circle')
        assert notes == ['train: no objects of 1 (circle) of the 2 classes']

    def test_that_metainfo_lacks(self, detector, root):
        self.add_disc(root)
        faults, (train, val) = look(detector)
        assert faults == []
        assert 'does not name' in train and train.endswith('disc (1)')
        assert 'does not name' in val and val.endswith('disc (1)')

    def test_in_another_order(self, detector, root):
        self.add_disc(root)
        set_classes(detector, ('disc', 'square'))
        (train, _), _ = look(detector)
        assert train == (
            'train: metainfo.classes is (disc, square), but mmdet numbers the classes in '
            f'the order of {root}/boxes.json: give (square, disc)'
        )

    @staticmethod
    def add_disc(root):
        def add(content):
            content['categories'].append(dict(id=2, name='disc'))
            first = content['annotations'][0]
            content['annotations'].append(dict(first, id=99, category_id=2))

        for name in ('boxes', 'val'):
            change(root / f'{name}.json', add)

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
