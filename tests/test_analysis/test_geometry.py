import numpy as np
import pytest
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope

from mmgcnl.analysis import Grid, PixelMap

SIZE = (40, 60)  # rows, columns of the image
RESIZE = dict(type='Resize', scale=(120, 80), keep_ratio=False)
FLIP = dict(type='RandomFlip', prob=1.0)
PIPELINES = {
    # what is done, and the network's input with the padding of its preprocessor
    'as it is': ([], (40, 60)),
    'enlarged': ([RESIZE], (80, 120)),
    'enlarged, aspect changed': ([{**RESIZE, 'scale': (180, 80)}], (80, 180)),
    'shrunk': ([{**RESIZE, 'scale': (30, 20), 'keep_ratio': True}], (20, 30)),
    'shrunk by an odd ratio': ([{**RESIZE, 'scale': (37, 23)}], (23, 37)),
    'padded': ([], (64, 64)),
    'enlarged, padded': ([RESIZE], (96, 128)),
    'flipped': ([FLIP], (40, 60)),
    'flipped, padded': ([RESIZE, FLIP], (96, 128)),
    'padded, then flipped': ([dict(type='Pad', size=(64, 48)), FLIP], (48, 64)),
    'padded with gray': ([dict(type='Pad', size=(64, 48), pad_val=114)], (64, 64)),
    'flipped upside down': ([{**FLIP, 'direction': 'vertical'}], (48, 64)),
}


def pack(scope):
    keys = ('img_path', 'ori_shape', 'img_shape')
    name = {'mmseg': 'PackSegInputs', 'mmdet': 'PackDetInputs'}[scope]
    return dict(type=name, meta_keys=keys)


@pytest.fixture(params=['mmseg', 'mmdet'])
def scope(request):
    init_default_scope(request.param)
    return request.param


def build(scope, transforms):
    return Compose([*transforms, pack(scope)])


def blob(x, y):
    """An image that is bright about one pixel, wide enough to outlive the shrinking."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    distance = (rows - y) ** 2 + (columns - x) ** 2
    image = 255 * np.exp(-distance / 18)
    return image[..., None].repeat(3, 2).astype(np.float32)


def as_network_input(scope, transforms, image, input_size):
    """By the same pipeline that an image takes, then padded as a preprocessor pads."""
    data = dict(img=image, img_shape=SIZE, ori_shape=SIZE, img_path='', height=40, width=60)
    output = build(scope, transforms)(data)['inputs'].numpy()[0]
    padded = np.zeros(input_size, np.float32)
    # a gray padding would outshine the blob
    padded[: output.shape[0], : output.shape[1]] = np.where(output == 114, 0, output)
    return padded


@pytest.mark.parametrize('name', PIPELINES)
@pytest.mark.parametrize('point', [(7, 30), (30, 20), (50, 9)])
def test_points_land_where_the_pipeline_brings_them(scope, name, point):
    transforms, input_size = PIPELINES[name]
    pixel_map = PixelMap.of_pipeline(build(scope, transforms), SIZE, input_size)
    where = as_network_input(scope, transforms, blob(*point), input_size)
    brightest = np.unravel_index(where.argmax(), where.shape)
    cell = pixel_map.cell(point, Grid(input_size), input_size)
    found = np.unravel_index(cell, input_size)
    # the brightest pixel is within half a pixel of the image
    error = np.abs(np.subtract(found, brightest))
    assert (error <= np.ceil(0.5 * np.abs(pixel_map.scale))).all()


@pytest.mark.parametrize('name', PIPELINES)
@pytest.mark.parametrize('stride', [1, 2])
def test_attention_peak_lands_on_its_pixel(scope, name, stride):
    """All attention on the key of one pixel is over that pixel and its neighbours."""
    transforms, input_size = PIPELINES[name]
    pixel_map = PixelMap.of_pipeline(build(scope, transforms), SIZE, input_size)
    size = (input_size[0] // 4, input_size[1] // 4)
    keys = Grid(tuple(-(-n // stride) for n in size), stride, 0.5 - stride / 2)
    for point in [(7, 30), (30, 20), (50, 9), (0, 0), (59, 39)]:
        weights = np.zeros((2, keys.size[0] * keys.size[1]))
        weights[1, pixel_map.cell(point, keys, size)] = 1
        heat = weights[:, pixel_map.cells(keys, size)]
        assert heat.shape == (2, *SIZE)
        assert not heat[0].any()
        rows, columns = np.nonzero(heat[1])
        x, y = point
        assert heat[1, y, x] == 1
        # as large as a key's stretch, of which the border may have one more half
        limit = 4 * stride * 1.5 / np.abs(pixel_map.scale) + 1
        assert np.ptp(rows) + 1 <= limit[0]
        assert np.ptp(columns) + 1 <= limit[1]
        # and connected
        assert len(rows) == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)


def test_every_pixel_exactly():
    """Twice the size and flipped, on a map of stride 4: 2 x 2 pixels to a cell."""
    init_default_scope('mmseg')
    pipeline = build('mmseg', [RESIZE, FLIP])
    pixel_map = PixelMap.of_pipeline(pipeline, SIZE, (80, 128))
    np.testing.assert_allclose(pixel_map.scale, (2, -2), atol=1e-4)
    size = (20, 32)
    for y in range(40):
        for x in range(60):
            cell = pixel_map.cell((x, y), Grid(size), size)
            assert divmod(cell, 32) == (y // 2, (59 - x) // 2)


def test_labels_at_centers():
    init_default_scope('mmseg')
    labels = np.arange(40 * 60).reshape(SIZE)
    pixel_map = PixelMap.of_pipeline(build('mmseg', []), SIZE, (45, 65))
    found = pixel_map.labels_at(labels, Grid((9, 13)), (9, 13))
    # cells of 5 x 5 pixels, the last row and column of which are padding
    assert found[:8, :12].tolist() == labels[2::5, 2::5].tolist()
    assert (found[8] == -1).all()
    assert (found[:, 12] == -1).all()
    flipped = PixelMap.of_pipeline(build('mmseg', [FLIP]), SIZE, (40, 60))
    found = flipped.labels_at(labels, Grid((40, 60)), (40, 60))
    assert (found == labels[:, ::-1]).all()


@pytest.mark.parametrize('point', [(-1, 5), (60, 5), (5, 40), (5, -3)])
def test_point_outside(point):
    init_default_scope('mmseg')
    pixel_map = PixelMap.of_pipeline(build('mmseg', []), SIZE, (64, 64))
    with pytest.raises(ValueError, match='outside of the image: x goes from 0 to 59, y'):
        pixel_map.cell(point, Grid((8, 8)), (8, 8))


def test_point_cropped_away():
    init_default_scope('mmdet')
    crop = dict(type='mmcv.CenterCrop', crop_size=(20, 20))
    pixel_map = PixelMap.of_pipeline(build('mmdet', [crop]), SIZE, (20, 20))
    assert pixel_map.cell((30, 20), Grid((20, 20)), (20, 20)) == 10 * 20 + 10
    with pytest.raises(ValueError, match='5,5 is cropped away'):
        pixel_map.cell((5, 5), Grid((20, 20)), (20, 20))


def test_pipeline_that_turns():
    init_default_scope('mmseg')
    turn = dict(type='RandomRotate', prob=1.0, degree=(20, 20))
    with pytest.raises(ValueError, match='more than resize, flip, crop and pad'):
        PixelMap.of_pipeline(build('mmseg', [turn]), SIZE, SIZE)
