"""Images of any type and number of channels as pictures."""

import cv2
import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile
from PIL import Image

from mmgcnl.datasets.pictures import ImageReader, find_reader, loads_image, to_picture


def ramp(dtype, scale=1, channels=3):
    """A ramp from left to right, in the first channels brighter than in the last."""
    columns = np.arange(200)[None, :, None] * scale
    return (columns * np.ones((10, 1, channels)) / (1 + np.arange(channels))).astype(dtype)


def test_8_bits_are_left_as_they_are():
    image = ramp(np.uint8)
    assert (to_picture(image) == image[..., ::-1]).all()
    assert (to_picture(image, rgb=True) == image).all()
    assert (to_picture(image.astype(np.float32)) == image[..., ::-1]).all()
    dark = np.full((4, 4, 3), 7, np.uint8)
    assert (to_picture(dark) == 7).all()


@pytest.mark.parametrize('rgb', [False, True])
@pytest.mark.parametrize('channels', [3, 4, 10])
@pytest.mark.parametrize('dtype', [np.uint8, np.uint16, np.int16, np.float32, np.float64])
def test_first_three_channels_are_shown(dtype, channels, rgb):
    picture = to_picture(ramp(dtype, channels=channels), rgb)
    assert picture.shape == (10, 200, 3) and picture.dtype == np.uint8
    assert picture.flags['C_CONTIGUOUS']
    red, _, blue = picture[:, 100].astype(int).mean(0)
    assert red > blue if rgb else blue > red


@pytest.mark.parametrize('shape', [(10, 200), (10, 200, 1), (10, 200, 2)])
def test_gray(shape):
    image = ramp(np.uint8, channels=1)[..., 0]
    stacked = image if len(shape) == 2 else np.repeat(image[..., None], shape[2], 2)
    picture = to_picture(stacked)
    # not mirrored, as the channels of color images are
    assert (picture == image[..., None]).all() and picture.shape == (10, 200, 3)


@pytest.mark.parametrize('dtype', [np.uint16, np.int32, np.float32])
@pytest.mark.parametrize('offset', [0, 20_000])
def test_other_values_are_scaled(dtype, offset):
    image = ramp(dtype, 100, 1) + dtype(offset)
    image[0, 0] = image.max() * 2  # a defective pixel does not darken the rest
    picture = to_picture(image)[5, :, 0].astype(int)
    assert picture[0] == 0 and picture[-1] == 255
    assert (np.diff(picture) >= 0).all() and 100 < picture[100] < 155


@pytest.mark.parametrize('value', [0, 300, np.nan, np.inf])
def test_flat_images(value):
    picture = to_picture(np.full((4, 4, 3), value, np.float32))
    assert picture.shape == (4, 4, 3) and len(np.unique(picture)) == 1


def test_reader_loads_as_the_pipeline(tmp_path):
    path = str(tmp_path / 'a.png')
    image = ramp(np.uint16, 300)
    cv2.imwrite(path, image)
    reader = ImageReader(LoadImageFromFile(color_type='unchanged', to_float32=True))
    assert (reader.read(path) == image).all() and reader.read(path).dtype == np.float32
    loaded = reader(path)
    assert loaded['img_path'] == path and loaded['ori_shape'] == (10, 200)
    loaded = reader(image)
    assert loaded['img'].dtype == np.float32 and loaded['img_shape'] == (10, 200)
    assert (reader.picture(path) == to_picture(image)).all()
    eight_bits = ImageReader(LoadImageFromFile())
    assert (eight_bits.read(path) != image).any()
    (tmp_path / 'b.png').write_text('no image')
    with pytest.raises(ValueError, match='b.png does not decode as an image'):
        reader.picture(tmp_path / 'b.png')


@pytest.mark.parametrize('backend', ['cv2', 'pillow'])
def test_orientation(tmp_path, backend):
    """A picture is turned where the loader turns the image."""
    path = str(tmp_path / 'a.jpg')
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.new('RGB', (30, 20), (200, 30, 30)).save(path, exif=exif)
    for color_type, shape in (
        ('color', (30, 20, 3)),
        ('color_ignore_orientation', (20, 30, 3)),
        ('unchanged', (20, 30, 3)),
        ('grayscale', (30, 20, 3)),
    ):
        load = LoadImageFromFile(color_type=color_type, imdecode_backend=backend)
        picture = ImageReader(load).picture(path)
        assert picture.shape == shape, color_type
        if color_type != 'grayscale':
            red, _, blue = picture.mean((0, 1))
            assert red > 180 and blue < 50


def test_tifffile_keeps_the_order():
    assert ImageReader(LoadImageFromFile(imdecode_backend='tifffile')).rgb
    assert not ImageReader(LoadImageFromFile(imdecode_backend='pillow')).rgb


def test_find_reader():
    loader = LoadImageFromFile()
    assert find_reader([print, loader]).loader is loader
    reader = ImageReader(loader)
    assert find_reader([reader]) is reader
    with pytest.raises(ValueError, match='the pipeline loads no image: it has no steps'):
        find_reader([])
    assert not loads_image('LoadAnnotations') and not loads_image('Resize')
    assert loads_image('LoadSingleRSImageFromFile')
