"""Images as a pipeline loads them, and as pictures to look at.

Shape shorthand: H, W: pixels, C: channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

_NO_IMAGE = ('Annotation', 'Label', 'Panoptic', 'Proposal')


def loads_image(name: str) -> bool:
    """Tell by its name whether a transform loads the image."""
    return name.startswith('Load') and not any(word in name for word in _NO_IMAGE)


class ImageReader:
    """The loader of a pipeline, which knows the type and the channels of its images.

    As the first step of a pipeline it takes a path, an array as the loader gives it, or a
    dict with ``img_path`` or ``img``.

    Args:
        loader: The transform that loads an image by its ``img_path``.
    """

    def __init__(self, loader: Callable[[dict], dict | None]) -> None:
        self.loader = loader
        # tifffile and GDAL keep the order of the file, everything else makes it BGR.
        self.rgb = (
            getattr(loader, 'imdecode_backend', None) == 'tifffile'
            or type(loader).__name__ == 'LoadSingleRSImageFromFile'
        )

    def __call__(self, image: str | Path | np.ndarray | dict) -> dict | None:
        """Load an image, or complete one that is loaded to what the loader returns."""
        if isinstance(image, (str, Path)):
            return self.loader(dict(img_path=str(image)))
        data = dict(img=image) if isinstance(image, np.ndarray) else dict(image)
        if 'img' not in data:
            return self.loader(data)
        if getattr(self.loader, 'to_float32', False):
            data['img'] = data['img'].astype(np.float32)
        size = data['img'].shape[:2]
        return {'img_path': None, **data, 'img_shape': size, 'ori_shape': size}

    def read(self, image: str | Path | np.ndarray) -> np.ndarray:
        """Load an image, (H, W) or (H, W, C), of any type, as the pipeline has it.

        Raises:
            ValueError: The file does not decode.
        """
        try:
            results = self(image)
        except Exception as error:  # decoders raise all kinds of errors
            reason = f'{type(error).__name__}: {error}'.strip()
            raise ValueError(f'{image} does not decode as an image: {reason}') from error
        if results is None:
            raise ValueError(f'{image} does not decode as an image')
        return results['img']

    def picture(self, image: str | Path | np.ndarray) -> np.ndarray:
        """Load an image as :meth:`read` does, and make it visible by :func:`to_picture`."""
        return to_picture(self.read(image), self.rgb)


def find_reader(steps: Sequence[Any]) -> ImageReader:
    """Find what loads the images among the transforms of a pipeline.

    Raises:
        ValueError: None of them loads an image.
    """
    for step in steps:
        if isinstance(step, ImageReader):
            return step
        if loads_image(type(step).__name__):
            return ImageReader(step)
    names = ', '.join(type(step).__name__ for step in steps)
    raise ValueError(f'the pipeline loads no image: {names or "it has no steps"}')


def to_picture(image: np.ndarray, rgb: bool = False) -> np.ndarray:
    """Make an image visible.

    Of more than three channels the first three are shown, of less than three the first, in
    gray. Values of other types than uint8 are scaled, so that the middle 96 % of them range
    from black to white; 8-bit values that were only converted to another type are not.

    Args:
        image: (H, W) or (H, W, C).
        rgb: Whether its channels begin with red, green, blue, instead of blue, green, red.

    Returns:
        (H, W, 3), RGB, uint8.
    """
    image = image[..., None] if image.ndim == 2 else image
    if image.shape[2] < 3:
        image = image[..., :1].repeat(3, axis=2)
    image = image[..., :3] if rgb else image[..., 2::-1]
    return np.ascontiguousarray(image if image.dtype == np.uint8 else _scale(image))


def _scale(values: np.ndarray) -> np.ndarray:
    if values.dtype == bool:
        return values.astype(np.uint8) * 255
    whole = values.dtype.kind == 'f'
    values = np.nan_to_num(values.astype(np.float32), posinf=0, neginf=0)
    low, high = float(values.min(initial=0)), float(values.max(initial=0))
    if whole and 0 <= low and 1 < high <= 255 and (values == np.rint(values)).all():
        return values.astype(np.uint8)
    step = max(1, int((values.size / 1e6) ** 0.5))  # a million values are enough
    low, high = np.percentile(values[::step, ::step], (2, 98))
    if high <= low:
        low, high = float(values.min()), float(values.max())
    scaled = (values - low) / max(high - low, 1e-12) * 255
    return scaled.clip(0, 255).round().astype(np.uint8)
