"""Coordinates: from the pixels of an image to the maps inside a network, and back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .blocks import Grid


@dataclass(frozen=True)
class PixelMap:
    """Where an image lies in the input of a network, and thereby on each of its maps.

    Along each axis ``input = scale * image + offset``, both in pixels whose centers are
    whole numbers; a flip has a negative scale. A map of h rows divides the input into h
    equal intervals, as with align_corners=False.

    Args:
        image_size: Rows and columns of the image.
        input_size: Rows and columns of the input, including all padding.
        scale: Scale of y and of x.
        offset: Offset of y and of x, in pixels of the input.
    """

    image_size: tuple[int, int]
    input_size: tuple[int, int]
    scale: tuple[float, float]
    offset: tuple[float, float]

    @classmethod
    def of_pipeline(
        cls,
        pipeline: Callable[[dict], dict],
        image_size: tuple[int, int],
        input_size: tuple[int, int],
    ) -> PixelMap:
        """Find the coordinates by sending an image of coordinates through a pipeline.

        Args:
            pipeline: A test pipeline, from :func:`mmgcnl.apis.image_pipeline`.
            image_size: Rows and columns of the image.
            input_size: Rows and columns of the network's input. Where it is larger than
                the output of the pipeline, it must be padded at the right and bottom.

        Raises:
            ValueError: The pipeline does more than resize, flip, crop and pad.
        """
        y, x = np.mgrid[: image_size[0], : image_size[1]].astype(np.float32)
        # The third channel is 1 in the image and the padding's value elsewhere.
        image = np.stack([y, x, np.ones_like(y)], axis=2)
        data = dict(img=image, img_shape=image_size, ori_shape=image_size, img_path='')
        coordinates = pipeline(data)['inputs'].numpy().astype(np.float64)
        inside = np.abs(coordinates[2] - 1) < 1e-3
        lines = [
            _line(coordinates[axis], inside, axis, length)
            for axis, length in enumerate(image_size)
        ]
        (y_scale, y_offset), (x_scale, x_offset) = lines
        return cls(image_size, input_size, (y_scale, x_scale), (y_offset, x_offset))

    def cell(self, point: tuple[float, float], grid: Grid, size: tuple[int, int]) -> int:
        """Find the query whose cell contains a point of the image.

        Args:
            point: x and y, in pixels.
            grid: The grid of the queries.
            size: Rows and columns of the map.

        Returns:
            The query's number, in row-major order.

        Raises:
            ValueError: The point is outside of the image, or cropped away.
        """
        x, y = point
        height, width = self.image_size
        if not (-0.5 <= x < width - 0.5 and -0.5 <= y < height - 0.5):
            raise ValueError(
                f'the point {x:g},{y:g} is outside of the image: x goes from 0 to '
                f'{width - 1}, y from 0 to {height - 1}'
            )
        cells = []
        for axis, pixel in enumerate((y, x)):
            position = self._to_map(np.array([pixel]), axis, size)
            if not 0 <= position[0] < size[axis]:
                raise ValueError(f'the point {x:g},{y:g} is cropped away by the pipeline')
            cells.append(int(grid.cells(position, axis)[0]))
        return cells[0] * grid.size[1] + cells[1]

    def cells(self, grid: Grid, size: tuple[int, int]) -> np.ndarray:
        """Find the key in whose cell each pixel of the image lies.

        Args:
            grid: The grid of the keys.
            size: Rows and columns of the map.

        Returns:
            (H, W), numbers in row-major order; of the nearest key where a pixel is cropped
            away.
        """
        rows, columns = (
            grid.cells(self._to_map(np.arange(length), axis, size), axis)
            for axis, length in enumerate(self.image_size)
        )
        return rows[:, None] * grid.size[1] + columns

    def labels_at(
        self, labels: np.ndarray, grid: Grid, size: tuple[int, int]
    ) -> np.ndarray:
        """Sample a label map at the centers of the cells of a grid.

        Args:
            labels: (H, W), the label of each pixel of the image.
            grid: The grid.
            size: Rows and columns of the map.

        Returns:
            The labels, (rows, columns) of the grid; -1 in the padding.
        """
        pixels = []
        for axis, length in enumerate(self.image_size):
            inputs = grid.centers(axis) / size[axis] * self.input_size[axis] - 0.5
            pixel = np.rint((inputs - self.offset[axis]) / self.scale[axis]).astype(int)
            pixels.append(np.where((pixel >= 0) & (pixel < length), pixel, -1))
        found = labels[pixels[0][:, None], pixels[1]].astype(int)
        return np.where((pixels[0][:, None] < 0) | (pixels[1] < 0), -1, found)

    def _to_map(self, pixels: np.ndarray, axis: int, size: tuple[int, int]) -> np.ndarray:
        inputs = pixels * self.scale[axis] + self.offset[axis]
        return (inputs + 0.5) / self.input_size[axis] * size[axis]


def _line(
    coordinates: np.ndarray, inside: np.ndarray, axis: int, length: int
) -> tuple[float, float]:
    """Fit ``position = scale * coordinate + offset`` along an axis."""
    positions = np.flatnonzero(inside.any(axis=1 - axis))
    lines = np.moveaxis(coordinates, axis, 0)[positions]
    across = np.flatnonzero(inside.any(axis=axis))
    if len(across):
        values = lines[:, across[len(across) // 2]]
        # Values at the border are off the line, because interpolation stops there.
        inner = (values > 1e-3) & (values < length - 1 - 1e-3)
        if inner.sum() >= 2:
            scale, offset = np.polyfit(values[inner], positions[inner], 1)
            fit = np.abs((positions - offset) / scale - values)[inner].max()
            bent = np.ptp(lines[inner][:, across], axis=1).max()
            if max(fit, bent) <= 1:  # a pixel, by which nearest-neighbour resizing rounds
                return float(scale), float(offset)
    raise ValueError(
        'points cannot be mapped: the test pipeline does more than resize, flip, crop and '
        f'pad, or the image is too small to tell ({length} pixels along axis {axis})'
    )
