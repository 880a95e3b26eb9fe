"""Images that their EXIF orientation turns, while label maps and boxes stay."""

from functools import partial

import mmcv
import numpy as np
import pytest
from PIL import Image

from mmgcnl.datasets.label_maps import find_label_fault
from mmgcnl.datasets.orientation import find_other_size, read_orientation
from tests.test_datasets.conftest import change, look

PLAIN = 'color_ignore_orientation'


def draw_turned(folder, orientation, size, suffix='.jpg'):
    """Draw images (H, W) that are the same in no orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    rng = np.random.default_rng(0)
    for path in sorted(folder.glob('*.png')):
        pixels = rng.integers(0, 256, (*size, 3), np.uint8)
        path.unlink()
        Image.fromarray(pixels).save(path.with_suffix(suffix), exif=exif, quality=95)


@pytest.fixture
def turn(segmentor, root):
    def turn(orientation, size=(32, 32), suffix='.jpg'):
        draw_turned(root / 'images', orientation, size, suffix)
        for path in (root / 'labels').iterdir():
            mmcv.imwrite(np.resize(mmcv.imread(str(path), 'unchanged'), size), str(path))
        for split in ('train', 'val', 'test'):
            segmentor[f'{split}_dataloader'].dataset.img_suffix = suffix
        return segmentor

    return turn


@pytest.mark.parametrize('orientation', range(1, 9))
def test_square_images(turn, orientation, root):
    """Whose size does not tell that they are turned."""
    faults, notes = look(turn(orientation))
    assert faults == []
    if orientation == 1:
        assert notes == []
    else:
        (note,) = notes
        assert '5 images are turned when they are loaded, by their EXIF' in note
        assert f'{root}/images/1.jpg' in note and PLAIN in note


@pytest.mark.parametrize('orientation', range(1, 9))
def test_oblong_images(turn, orientation, root):
    faults, notes = look(turn(orientation, (24, 32)))
    if orientation < 5:
        assert faults == [] and len(notes) == (orientation > 1)
    else:
        assert len(faults) == 5
        assert (
            f'labels/1.png is 32x24, but {root}/images/1.jpg 24x32; its EXIF' in faults[0]
        )
        assert f'orientation, {orientation}, turns it' in faults[0] and PLAIN in faults[0]


def test_label_maps_of_the_turned_images(turn, root):
    cfg = turn(6, (24, 32))
    for path in (root / 'labels').iterdir():
        Image.open(path).transpose(Image.Transpose.ROTATE_270).save(path)
    assert look(cfg) == ([], [])


@pytest.mark.parametrize('backend', ['cv2', 'pillow'])
def test_images_loaded_as_stored(turn, backend):
    cfg = turn(3)
    for split in ('train', 'val', 'test'):
        load = cfg[f'{split}_dataloader'].dataset.pipeline[0]
        load.update(imdecode_backend=backend)
    assert len(look(cfg)[1]) == 1
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].dataset.pipeline[0].color_type = PLAIN
    assert look(cfg) == ([], [])


@pytest.mark.parametrize('suffix', ['.png', '.webp', '.tif'])
def test_other_formats(turn, root, suffix):
    """A note for those that OpenCV turns, and only for them."""
    _, notes = look(turn(3, suffix=suffix))
    path = root / f'images/1{suffix}'
    turned = mmcv.imread(str(path)), mmcv.imread(str(path), PLAIN)
    assert bool(notes) is not np.array_equal(*turned)


def test_images_that_pil_takes_for_too_large(turn, monkeypatch):
    cfg = turn(3)
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)
    assert read_orientation(f'{cfg.train_dataloader.dataset.data_root}/images/1.jpg') == 3


def test_images_that_look_the_same_turned(turn, root):
    cfg = turn(3)
    for path in (root / 'images').iterdir():
        exif = Image.open(path).getexif()
        shade = int(path.stem) * 40
        Image.new('RGB', (32, 32), (shade, 0, 0)).save(path, exif=exif)
    assert look(cfg) == ([], [])


def test_boxes(detector, root):
    def resize(width, height, content):
        for image in content['images']:
            image.update(file_name=f'{image["id"]}.jpg', width=width, height=height)
        for annotation in content['annotations']:
            annotation['bbox'] = [2, 2, 16, 16]

    draw_turned(root / 'images', 8, (24, 32))
    change(root / 'boxes.json', partial(resize, 32, 24))
    change(root / 'val.json', partial(resize, 24, 32))
    faults, notes = look(detector)
    assert notes == [] and len(faults) == 3
    assert (
        'is 24x32, but 32x24 in the annotation file; its EXIF orientation, 8' in faults[0]
    )


def test_image_in_memory():
    """It has no path, and no orientation that could explain another size."""
    sample = dict(ori_shape=(4, 6), height=6, width=4)
    assert 'the image is 6x4, but 4x6' in find_other_size(sample, None)
    sample['gt_seg_map'] = np.zeros((6, 4), np.uint8)
    assert 'the image 6x4' in find_label_fault(None, sample, 2, 255, stored=False)
