"""What the data sets of a config have to have in common."""

import shutil

import numpy as np
import pytest
from PIL import Image

from tests.test_datasets.conftest import change, look
from tests.test_datasets.test_label_maps import (
    as_type,
    save_labels,
    set_classes,
    set_dataset,
)


@pytest.fixture
def parted(segmentor):
    """The segmentor with other images for training and for validation."""
    segmentor.train_dataloader.dataset.indices = [0, 1, 2]
    for split in ('val', 'test'):
        segmentor[f'{split}_dataloader'].dataset.indices = [3, 4]
    return segmentor


@pytest.mark.parametrize('split', ['train', 'val'])
def test_reduce_zero_label_in_one_split(parted, root, split):
    parted[f'{split}_dataloader'].dataset.reduce_zero_label = True
    faults, _ = look(parted)
    settings = [fault for fault in faults if 'reduce_zero_label is' in fault]
    here = dict(train=False, val=True)[split]
    assert settings[0].split(': ', 1)[1] == (
        f'reduce_zero_label is {here} here, and {not here} for the training data: set it '
        'to the same for all data sets'
    )
    assert len(settings) == 1


def test_ignore_index_in_one_split(parted):
    parted.val_dataloader.dataset.ignore_index = 254
    assert any('val: ignore_index is 254 here, and 255 for' in f for f in look(parted)[0])


def test_suffix_of_label_maps(parted, root):
    """Two kinds of label maps in one folder: it may be meant."""
    for path in list((root / 'labels').iterdir()):
        Image.open(path).save(path.with_name(f'{path.stem}_b.png'))
    set_dataset(parted, seg_map_suffix='.png')
    parted.val_dataloader.dataset.seg_map_suffix = '_b.png'
    faults, notes = look(parted)
    assert faults == []
    assert any("seg_map_suffix is '_b.png' here, and '.png' for the" in n for n in notes)


def test_other_classes_of_data_sets(parted, root):
    """Each class of data sets has files of its own."""
    dataset = parted.val_dataloader.dataset
    dataset.update(type='ProbeDataset', reduce_zero_label=True)
    for key in ('img_suffix', 'seg_map_suffix', 'metainfo'):
        del dataset[key]
    set_classes(parted, 7)
    del parted.val_dataloader.dataset['metainfo']
    faults, notes = look(parted)
    assert any('are the classes here' in fault for fault in faults)
    assert not any('reduce_zero_label' in fault for fault in faults)


class TestIgnoredClass:
    def test_two_classes_as_0_and_255(self, parted, root):
        save_labels(root, as_type(np.uint8, 255))
        faults, _ = look(parted)
        (fault,) = faults
        assert fault == (
            'train: no split has pixels of 1 (square), but 25.00 % of them have the value '
            '255, which is ignored: number the classes from 0 to 1, or remove those that '
            'are not there from metainfo.classes'
        )

    def test_the_last_of_three_is_255(self, parted, root):
        def convert(labels):
            labels[:4, :4] = 255
            return Image.fromarray(labels)

        save_labels(root, convert)
        set_classes(parted, 3)
        faults, notes = look(parted)
        assert any('no split has pixels of 1 (c2), but' in fault for fault in faults)

    def test_every_class_is_there(self, parted, root):
        def convert(labels):
            labels[:1, :1] = 255
            return Image.fromarray(labels)

        save_labels(root, convert)
        assert look(parted) == ([], [])

    def test_only_the_training_data_has_it(self, parted, root):
        save_labels(root, as_type(np.uint8, 255), names='45')
        assert look(parted) == ([], [])

    def test_the_training_data_has_one_class(self, parted, root):
        save_labels(root, as_type(np.uint8, 255), names='123')
        faults, _ = look(parted)
        assert 'train: no split' in faults[0]

    def test_ignored_on_purpose(self, parted, root):
        """reduce_zero_label makes 255 of 0."""
        set_dataset(parted, reduce_zero_label=True)
        faults, notes = look(parted)
        assert faults == [] and 'no pixels of 1 (square) of the 2 classes' in notes[0]


class TestTruth:
    """What a metric needs and the pipeline does not give."""

    LOAD = dict(type='LoadImageFromFile')
    LABELS = dict(type='LoadAnnotations')
    RESIZE = dict(type='Resize', scale=(64, 64), keep_ratio=True)
    PACK = dict(type='PackSegInputs')

    def faults(self, cfg, *pipeline):
        for split in ('val', 'test'):
            cfg[f'{split}_dataloader'].dataset.pipeline = list(pipeline)
        return look(cfg)[0]

    def test_no_label_maps(self, parted):
        (fault,) = self.faults(parted, self.LOAD, self.RESIZE, self.PACK)
        assert fault.startswith('val, test: IoUMetric needs gt_sem_seg, which the pipeline')
        assert "add dict(type='LoadAnnotations'), after Resize" in fault

    def test_resized_label_maps(self, parted):
        (fault,) = self.faults(parted, self.LOAD, self.LABELS, self.RESIZE, self.PACK)
        assert fault == (
            'val, test: IoUMetric compares in the size of the image, 32x32, but the '
            'pipeline resizes the label map to 64x64: put LoadAnnotations after Resize'
        )

    def test_all_there(self, parted):
        steps = self.LOAD, self.RESIZE, self.LABELS, self.PACK
        assert self.faults(parted, *steps) == []

    def test_test_time_augmentation(self, parted):
        flips = [dict(type='RandomFlip', prob=float(prob)) for prob in (0, 1)]
        augment = dict(type='TestTimeAug', transforms=[flips, [self.LABELS], [self.PACK]])
        assert self.faults(parted, self.LOAD, augment) == []
        augment['transforms'].pop(1)
        assert 'IoUMetric needs gt_sem_seg' in self.faults(parted, self.LOAD, augment)[0]

    def test_predictions_for_a_server(self, parted, tmp_path):
        for split in ('val', 'test'):
            parted[f'{split}_evaluator'].update(
                format_only=True, output_dir=str(tmp_path / 'out')
            )
        assert self.faults(parted, self.LOAD, self.RESIZE, self.PACK) == []

    def test_a_pipeline_that_fails(self, parted):
        crop = dict(type='RandomCrop', crop_size=(0.5, 0.5))
        (fault,) = self.faults(parted, self.LOAD, self.LABELS, crop, self.PACK)
        assert 'val, test: the pipeline fails on ' in fault

    @pytest.mark.parametrize(
        'metric, keys, missing',
        [
            (dict(type='CocoMetric', ann_file='val.json'), ('img_path',), 'img_id'),
            (dict(type='VOCMetric'), ('img_id',), None),
        ],
    )
    def test_of_detectors(self, detector, root, metric, keys, missing):
        if 'ann_file' in metric:
            metric['ann_file'] = str(root / metric['ann_file'])
        for split in ('val', 'test'):
            detector[f'{split}_evaluator'] = metric
            detector[f'{split}_dataloader'].dataset.pipeline[-1].meta_keys = keys
        faults, _ = look(detector)
        if missing is None:
            assert faults == []
        else:
            assert f'{metric["type"]} needs {missing}, which the pipeline' in faults[0]
            assert 'meta_keys' in faults[0]

    def test_boxes_for_vocs_metric(self, detector):
        for split in ('val', 'test'):
            detector[f'{split}_evaluator'] = dict(type='VOCMetric')
            del detector[f'{split}_dataloader'].dataset.pipeline[1]
        assert any(
            'VOCMetric needs gt_instances.labels' in fault for fault in look(detector)[0]
        )


def test_image_in_two_splits(detector, root):
    """By content: the copy has another name and another file format."""
    shutil.copy(root / 'images/1.png', root / 'images/copy.png')
    change(root / 'val.json', lambda c: c['images'][0].update(file_name='copy.png'))
    faults, (note,) = look(detector)
    assert faults == []
    assert note == (
        'val, test: 1 of the images are also training images: '
        f'{root}/images/copy.png = {root}/images/1.png'
    )
