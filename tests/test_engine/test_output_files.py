"""Names and types of the files that a test writes."""

from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmgcnl.engine import ConfigError
from mmgcnl.engine.output_files import (
    DistinctNamesHook,
    LabelMapHook,
    image_paths,
    name_outputs,
)


def test_names_without_folders_where_they_differ():
    paths = ['/a/x/0.png', '/a/y/1.png', '2.png', 's3://bucket/3.jpg']
    assert [*name_outputs(paths).values()] == ['0', '1', '2', '3']
    assert name_outputs([]) == {}
    assert name_outputs(['a/0.png', 'a/0.png']) == {'a/0.png': '0'}  # one image, twice


@pytest.mark.parametrize('root', ['/data/images', 's3://bucket'])
def test_folders_where_names_repeat(root):
    paths = [f'{root}/A/0.png', f'{root}/B/C/0.png', f'{root}/1.png']
    assert [*name_outputs(paths).values()] == ['A/0', 'B/C/0', '1']


def test_no_name_leads_out_of_the_folder():
    paths = ['../a/0.png', 'b/0.png', '/c/0.png', 'd/../e/0.png']
    names = name_outputs(paths).values()
    assert len(set(names)) == 4
    assert not any(name.startswith(('/', '..')) or '/../' in name for name in names)


def test_same_name_in_one_folder():
    with pytest.raises(ConfigError, match='0.jpg and a/0.png would be written to the same'):
        name_outputs(['a/0.jpg', 'a/0.png', 'a/1.png'])


class Data(list):
    """A data set of images with these paths."""

    def __init__(self, paths, num_classes=2, reduce_zero_label=False):
        super().__init__(paths)
        self.metainfo = dict(classes=[str(i) for i in range(num_classes)])
        self.reduce_zero_label = reduce_zero_label

    def get_data_info(self, index):
        return dict(img_path=self[index])


def test_image_paths():
    assert [*image_paths(Data(['a', 'b']))] == ['a', 'b']
    assert [*image_paths(['a', 'b'])] == []  # a data set that does not tell


def runner_of(data, metrics=()):
    loader = SimpleNamespace(dataset=data)
    loop = SimpleNamespace(
        dataloader=loader, evaluator=SimpleNamespace(metrics=list(metrics))
    )
    return SimpleNamespace(test_dataloader=loader, test_loop=loop, val_loop=loop)


def write(folder, data, labels):
    hook = LabelMapHook(str(folder))
    hook.before_test(runner_of(data))
    for path, label in zip(data, labels):
        sample = SegDataSample(metainfo=dict(img_path=path))
        sample.set_metainfo(dict(reduce_zero_label=data.reduce_zero_label))
        sample.pred_sem_seg = PixelData(data=torch.full((1, 4, 6), label))
        hook.after_test_iter(None, 0, outputs=[sample])


def test_every_image_gets_its_file(tmp_path):
    write(tmp_path, Data(['d/A/0.png', 'd/B/0.png', 'd/B/1.png']), [0, 1, 1])
    files = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob('*.png'))
    assert files == ['A/0.png', 'B/0.png', 'B/1.png']
    assert cv2.imread(str(tmp_path / 'A/0.png'), -1).max() == 0
    assert cv2.imread(str(tmp_path / 'B/0.png'), -1).min() == 1


@pytest.mark.parametrize(
    ('num_classes', 'reduce_zero_label', 'dtype'),
    [
        (2, True, np.uint8),
        (256, False, np.uint8),
        (256, True, np.uint16),
        (257, False, np.uint16),
        (1000, True, np.uint16),
    ],
)
def test_classes_do_not_wrap(tmp_path, num_classes, reduce_zero_label, dtype):
    data = Data(['a.png', 'b.png'], num_classes, reduce_zero_label)
    write(tmp_path, data, [0, num_classes - 1])
    first, last = (cv2.imread(str(tmp_path / f'{x}.png'), -1) for x in 'ab')
    assert first.dtype == last.dtype == dtype and first.shape == (4, 6)
    assert (first == reduce_zero_label).all()
    assert (last == num_classes - 1 + reduce_zero_label).all()


def metric(name, **settings):
    return type(name, (), settings)()


@pytest.mark.parametrize('when', ['before_val', 'before_test'])
def test_metrics_that_write_by_file_name(when):
    twice = Data(['d/A/0.png', 'd/B/0.png'])
    once = Data(['d/A/0.png', 'd/B/1.png'])
    many = Data(['0.png'], num_classes=257)
    writes = metric('IoUMetric', output_dir='out')
    check = getattr(DistinctNamesHook(), when)
    check(runner_of(once, [writes]))
    for silent in (
        metric('IoUMetric', output_dir=None),
        metric('CocoMetric', outfile_prefix='out'),
        metric('CocoPanopticMetric', outfile_prefix=None),
    ):
        check(runner_of(twice, [silent]))
        check(runner_of(many, [silent]))
    for loud in (writes, metric('CocoPanopticMetric', outfile_prefix='out')):
        with pytest.raises(
            ConfigError, match='d/A/0.png and d/B/0.png would be written to'
        ):
            check(runner_of(twice, [metric('Other'), loud]))
    with pytest.raises(ConfigError, match='8 bits to out, which 257 classes do not fit'):
        check(runner_of(many, [writes]))
    assert Path('out').exists() is False
