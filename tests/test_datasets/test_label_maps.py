"""Label files are judged by what they hold, and not by what mmseg makes of it."""

import shutil
import struct
import zlib

import numpy as np
import pytest
from mmengine.registry import init_default_scope
from PIL import Image

from mmgcnl.datasets import label_maps
from mmgcnl.datasets.label_maps import find_only_class
from mmgcnl.datasets.loading import build_dataloader
from tests.test_datasets.conftest import change, look


def save_labels(root, convert, suffix='.png', names=None):
    """Write the label maps once more, converted."""
    for path in sorted((root / 'labels').glob('*.png')):
        if names is None or path.stem in names:
            image = convert(np.array(Image.open(path)))
            path.unlink()
            image.save(path.with_suffix(suffix))


def as_type(dtype, factor=1, shift=0):
    def convert(labels):
        return Image.fromarray((labels.astype(float) * factor + shift).astype(dtype))

    return convert


def set_dataset(cfg, **settings):
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].dataset.update(settings)


def set_classes(cfg, number):
    names = tuple(f'c{i}' for i in range(number))
    set_dataset(cfg, metainfo=dict(classes=names, palette=[[0, 0, 0]] * number))


def gray_png(labels, bits):
    """Encode a gray PNG with fewer bits than PIL and OpenCV write."""
    wide = labels[..., None] >> np.arange(bits - 1, -1, -1) & 1
    rows = np.packbits(wide.reshape(len(labels), -1).astype(np.uint8), axis=1)

    def chunk(kind, data):
        check = zlib.crc32(kind + data)
        return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', check)

    head = struct.pack('>IIBBBBB', labels.shape[1], labels.shape[0], bits, 0, 0, 0, 0)
    pixels = zlib.compress(b''.join(b'\0' + row.tobytes() for row in rows))
    chunks = ((b'IHDR', head), (b'IDAT', pixels), (b'IEND', b''))
    return b'\x89PNG\r\n\x1a\n' + b''.join(chunk(*one) for one in chunks)


class TestStoredValues:
    @pytest.mark.parametrize(
        'dtype, factor, shift, suffix, value',
        [
            (np.uint16, 257, 0, '.png', '[257]'),
            (np.uint16, 256, 0, '.png', '[256]'),  # 0 modulo 256
            (np.uint16, 65535, 0, '.png', '[65535]'),  # 255 modulo 256
            (np.int32, 257, 0, '.tif', '[257]'),
            (np.int32, 1, -1, '.tif', '[-1]'),  # 255 modulo 256
            (np.float32, 0.5, 0, '.tif', '[0.5]'),
            (np.float32, 1, -0.25, '.tif', '[-0.25, 0.75]'),
            (np.float32, np.nan, 0, '.tif', '[nan]'),
        ],
    )
    def test_that_are_lost_in_8_bits(
        self, segmentor, root, start, dtype, factor, shift, suffix, value
    ):
        save_labels(root, as_type(dtype, factor, shift), suffix)
        set_dataset(segmentor, seg_map_suffix=suffix)
        with pytest.raises(RuntimeError) as stop:
            start(segmentor)
        assert (
            f'{root}/labels/1{suffix}: label value {value}, but there are 2 classes, 0 to'
        ) in str(stop.value)

    @pytest.mark.parametrize(
        'dtype, suffix', [(np.uint16, '.png'), (np.int32, '.tif'), (np.float32, '.tif')]
    )
    def test_that_are_not(self, segmentor, root, start, dtype, suffix):
        save_labels(root, as_type(dtype), suffix)
        set_dataset(segmentor, seg_map_suffix=suffix)
        assert look(segmentor) == ([], []) and start(segmentor) == []

    @pytest.mark.parametrize('backend', ['cv2', 'pillow'])
    def test_with_either_back_end(self, segmentor, root, start, backend):
        save_labels(root, as_type(np.uint16, 257))
        segmentor.train_dataloader.dataset.pipeline[1].imdecode_backend = backend
        with pytest.raises(RuntimeError, match=r'label value \[257\]'):
            start(segmentor)

    def test_are_found_while_training(self, segmentor, root):
        save_labels(root, as_type(np.uint16, 257), names=['4'])
        init_default_scope('mmseg')
        loader = build_dataloader(segmentor.train_dataloader)
        with pytest.raises(RuntimeError, match=r'4.png: label value \[257\]'):
            for _, _ in zip(range(5), loader):
                pass

    def test_are_looked_at_once_for_each_file(self, segmentor, monkeypatch):
        """Not in every epoch: it means to read the file again."""
        read = []
        look_at = label_maps._read_for_uint8

        def count(step, path):
            read.append(path)
            return look_at(step, path)

        monkeypatch.setattr(label_maps, '_read_for_uint8', count)
        init_default_scope('mmseg')
        dataset = build_dataloader(segmentor.train_dataloader).dataset
        for _ in range(3):
            for index in range(len(dataset)):
                dataset[index]
        assert len(read) == len(set(read)) == len(dataset) == 5

    @pytest.mark.parametrize('bits, backend', [(2, 'pillow'), (4, 'cv2'), (1, 'cv2')])
    def test_that_are_scaled(self, segmentor, root, start, bits, backend):
        for path in (root / 'labels').iterdir():
            path.write_bytes(gray_png(np.array(Image.open(path)), bits))
        segmentor.train_dataloader.dataset.pipeline[1].imdecode_backend = backend
        with pytest.raises(RuntimeError, match='labels/1.png has less than 8 bits per pix'):
            start(segmentor)

    def test_of_a_single_bit(self, segmentor, root, start):
        save_labels(root, lambda labels: Image.fromarray(labels > 0))
        assert look(segmentor) == ([], []) and start(segmentor) == []

    def test_with_a_palette(self, segmentor, root, start):
        def add_palette(labels):
            image = Image.fromarray(labels, mode='P')
            image.putpalette([90, 20, 30, 200, 0, 0])
            return image

        save_labels(root, add_palette)
        assert look(segmentor) == ([], []) and start(segmentor) == []


@pytest.mark.parametrize('number', [256, 300])
def test_more_classes_than_8_bits_have(segmentor, start, number):
    set_classes(segmentor, number)
    faults, _ = look(segmentor)
    assert f'train, val, test: {number} classes, but mmseg reads label maps' in faults[0]
    with pytest.raises(RuntimeError, match=f'{number} classes, but .* at most 255 classes'):
        start(segmentor)


def test_as_many_classes_as_8_bits_have(segmentor, start):
    set_classes(segmentor, 255)
    assert start(segmentor) == []


def test_many_classes_of_boxes(detector, root, start):
    """mmdet reads no label maps."""
    names = ('square', *(f'c{i}' for i in range(299)))
    categories = [dict(id=i, name=name) for i, name in enumerate(names, 1)]
    change(root / 'boxes.json', lambda content: content.update(categories=categories))
    set_dataset(detector, metainfo=dict(classes=names, palette=[(0, 0, 0)] * 300))
    assert start(detector) == []


@pytest.mark.parametrize('mode, channels', [('RGB', 3), ('RGBA', 4), ('LA', 2)])
def test_gray_in_several_channels(segmentor, root, start, mode, channels):
    save_labels(root, lambda labels: Image.fromarray(labels).convert(mode))
    expected = f'labels/1.png has {channels} channels: give the numbers'
    with pytest.raises(RuntimeError, match=expected):
        start(segmentor)


def test_size_of_another_image(segmentor, root, start):
    save_labels(root, lambda labels: Image.fromarray(labels[:24]), names=['1'])
    with pytest.raises(RuntimeError, match=r'labels/1.png is 32x24, but \S*1.png 32x32$'):
        start(segmentor)


class TestOnlyClass:
    def build(self, cfg):
        init_default_scope('mmseg')
        return build_dataloader(cfg.train_dataloader).dataset

    def find(self, cfg):
        return find_only_class([self.build(cfg)])

    def test_two_classes_as_0_and_255(self, segmentor, root):
        save_labels(root, as_type(np.uint8, 255))
        text = self.find(segmentor)
        assert text.startswith(
            'all pixels of the label maps are ground or have the value 255'
        )
        assert 'for two classes 0 and 1, and not 0 and 255' in text

    def test_two_classes_as_255_and_1(self, segmentor, root):
        save_labels(
            root, lambda labels: Image.fromarray(np.where(labels, 1, 255).astype('u1'))
        )
        assert 'label maps are square or have' in self.find(segmentor)

    def test_one_label_map_has_the_second_class(self, segmentor, root):
        save_labels(root, as_type(np.uint8, 255), names='1245')
        assert self.find(segmentor) is None

    def test_nothing_is_ignored(self, segmentor, root):
        save_labels(root, as_type(np.uint8, 0))
        assert self.find(segmentor) is None

    def test_the_other_part_has_the_second_class(self, segmentor, root):
        """As with partial labels."""
        save_labels(root, as_type(np.uint8, 255))
        first = self.build(segmentor)
        shutil.copytree(root / 'labels', root / 'others')
        for path in (root / 'others').iterdir():
            Image.new('L', (32, 32), 1).save(path)
        segmentor.train_dataloader.dataset.data_prefix.seg_map_path = 'others'
        assert find_only_class([first, self.build(segmentor)]) is None


class TestSuffixes:
    @pytest.mark.parametrize('suffix', ['.JPEG', '.TIF', '.webp', '.bmp', '.PNG', '.Jpg'])
    def test_of_images_that_are_left_out(self, segmentor, root, start, suffix):
        with Image.open(root / 'images/1.png') as image:
            image.save(root / f'images/6{suffix}')
        faults, (note,) = look(segmentor)
        assert faults == []
        assert f'1 images in {root}/images do not end with .png and are left out: 6' in note
        (warning,) = start(segmentor)
        assert warning.endswith('set img_suffix, or rename them')

    def test_of_other_files(self, segmentor, root, start):
        for name in ('notes.txt', '1.json', 'Thumbs.db'):
            (root / 'images' / name).write_text('')
        assert start(segmentor) == []

    def test_of_label_maps_in_the_same_folder(self, segmentor, root, start):
        for path in (root / 'labels').iterdir():
            shutil.copy(path, root / 'images' / f'{path.stem}_labels.tif')
        prefix = dict(img_path='images', seg_map_path='images')
        set_dataset(segmentor, data_prefix=prefix, seg_map_suffix='_labels.tif')
        assert start(segmentor) == []


def test_repeated_lines_of_a_list(segmentor, root):
    (root / 'list.txt').write_text('1\n2\n1\n')
    for split in ('train', 'val', 'test'):
        segmentor[f'{split}_dataloader'].dataset.ann_file = 'list.txt'
    faults, notes = look(segmentor)
    assert faults == []
    expected = f'1 images are listed several times: {root}/images/1.png'
    assert any(expected in note for note in notes)
