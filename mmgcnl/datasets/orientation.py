"""EXIF orientations: OpenCV and mmcv turn an image by it, and label maps and boxes stay."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO

import numpy as np
from mmengine.dataset import Compose
from mmengine.fileio import get
from PIL import Image

from mmgcnl.utils.text import first_names

_TAG = 0x0112


@contextmanager
def no_size_limit() -> Iterator[None]:
    """Let PIL open images of any size; its limit is to protect servers."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def read_orientation(path: str, backend_args: dict | None = None) -> int:
    """Read the EXIF orientation of an image.

    Returns:
        1: as stored; 2 to 4: mirrored or upside down; 5 to 8: turned by a quarter.
    """
    try:
        with no_size_limit(), Image.open(BytesIO(get(path, backend_args))) as image:
            value = image.getexif().get(_TAG, 1)
    except (OSError, SyntaxError, ValueError):  # no image, or one that PIL does not know
        return 1
    return value if value in range(1, 9) else 1


def explain_orientation(
    path: str, size: tuple[int, ...], expected: tuple[int, ...], backend_args: dict | None
) -> str:
    """Explain an unexpected size (H, W) by the EXIF orientation; '' if that is not it."""
    if tuple(size) != tuple(expected)[::-1]:
        return ''
    orientation = read_orientation(path, backend_args)
    if orientation < 5:
        return ''
    return (
        f'; its EXIF orientation, {orientation}, turns it when it is loaded: annotate the '
        "turned image, or load it as it is stored, color_type='color_ignore_orientation' "
        'in LoadImageFromFile'
    )


def find_other_size(results: dict, backend_args: dict | None) -> str | None:
    """Find an image, just loaded, of another size than the annotation file says."""
    height, width = results['ori_shape'][:2]
    expected = results.get('height', height), results.get('width', width)
    if expected == (height, width):
        return None
    path = results.get('img_path', 'the image')
    return (
        f'{path} is {width}x{height}, but {expected[1]}x{expected[0]} in the annotation '
        'file'
    ) + (
        explain_orientation(path, (height, width), expected, backend_args)
        or ': replace the image by the annotated one, or correct width and height if '
        'boxes and masks fit it'
    )


def is_turned_unnoticed(
    info: dict, results: dict, pipeline: Compose, backend_args: dict | None
) -> bool:
    """Tell whether loading has turned an image, and left its size as it was.

    Args:
        info: The information on the sample, of which ``pipeline`` has made ``results``.
        results: The loaded sample.
        pipeline: The loading steps.
        backend_args: See mmengine's fileio.
    """
    orientation = read_orientation(info['img_path'], backend_args)
    height, width = results['ori_shape'][:2]
    if orientation == 1 or orientation > 4 and height != width:
        return False
    for step in pipeline.transforms:
        if getattr(step, 'color_type', None) in ('color', 'grayscale'):
            stored = copy.copy(step)
            stored.color_type += '_ignore_orientation'
            try:
                image = stored.transform(dict(info))['img']
            except ValueError:  # a back end without this option, which turns nothing
                return False
            return not np.array_equal(image, results['img'])
    return False


def describe_turned(paths: Sequence[str]) -> str:
    """Say what :func:`is_turned_unnoticed` has found, and what to do about it."""
    return (
        f'{len(paths)} images are turned when they are loaded, by their EXIF orientation, '
        f'and label maps and boxes are not: {first_names(paths)}; right if they were '
        'annotated as they are shown; else load them as they are stored, '
        "color_type='color_ignore_orientation' in LoadImageFromFile"
    )
