"""The pictures of the page, made for each click and therefore by table lookup.

Shape shorthand: n heads, M key positions, H, W: pixels of the page's pictures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import binary_dilation

from ..attention import Point
from ..figures import CMAP, brightness, scale_ticks

#: Longest side of a picture on the page, in pixels.
DISPLAY = 640
#: Width of the picture of all heads, and heads in a row.
_HEADS, _COLUMNS = 640, 4
_FONT = ImageFont.load_default(size=18)


def zoom(picture: np.ndarray) -> float:
    """Compute the factor from pixels of an image to those of the page."""
    return DISPLAY / max(picture.shape[:2])


def resized(picture: np.ndarray, factor: float) -> np.ndarray:
    """Resize (h, w) or (h, w, 3); pixels stay sharp where they become larger."""
    height, width = (max(1, round(n * factor)) for n in picture.shape[:2])
    if factor >= 1 or picture.dtype != np.uint8:  # also of what cannot be averaged
        rows = (np.arange(height) + 0.5) * picture.shape[0] / height
        columns = (np.arange(width) + 0.5) * picture.shape[1] / width
        return picture[rows.astype(int)[:, None], columns.astype(int)]
    return np.asarray(
        Image.fromarray(picture).resize((width, height), Image.Resampling.BOX)
    )


def marked(picture: np.ndarray, point: Point, factor: float) -> np.ndarray:
    """Draw a '+' that is visible on any background at a point of the image."""
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    x, y = ((value + 0.5) * factor for value in point)
    arm = max(5, round(0.016 * max(image.size)))
    for color, width, length in (('white', 5, arm + 1), ('black', 2, arm)):
        draw.line((x - length, y, x + length, y), color, width)
        draw.line((x, y - length, x, y + length), color, width)
    return np.asarray(image)


def outlined(picture: np.ndarray, changed: np.ndarray, factor: float) -> np.ndarray:
    """Draw a white line with a black one around what has changed (h, w)."""
    inner = resized(changed, factor)
    picture = picture.copy()
    for color in (255, 0):
        outer = binary_dilation(inner, iterations=2)
        picture[outer & ~inner] = color
        inner = outer
    return picture


def attention_picture(
    gray: np.ndarray, weights: np.ndarray, cells: np.ndarray, scale: float
) -> np.ndarray:
    """Color the keys of an image by their attention.

    Args:
        gray: (H, W), uint16, the brightness of the image, to 255.
        weights: (M,), in multiples of uniform attention.
        cells: (H, W), the key under each pixel.
        scale: The attention that gets the brightest color.

    Returns:
        (H, W, 3), RGB, uint8.
    """
    bright = brightness(weights, scale)
    colors = matplotlib.colormaps[CMAP](bright)[:, :3] * bright[:, None] * 255
    # Multiplying whole numbers of 16 bits is several times as fast as with float64.
    rest = ((1 - bright) * 256).astype(np.uint16)
    mixed = (gray * rest[cells] >> 8)[..., None] + colors.astype(np.uint16)[cells]
    return mixed.astype(np.uint8)


def heads_picture(
    gray: np.ndarray,
    weights: np.ndarray,
    cells: np.ndarray,
    scale: float,
    point: Point,
    factor: float,
) -> np.ndarray:
    """Draw all heads as small multiples, and the scale of their colors.

    Args:
        gray: (H, W), uint16, the brightness of the image, to 255.
        weights: (n, M), in multiples of uniform attention.
        cells: (H, W), the key under each pixel.
        scale: The attention that gets the brightest color.
        point: x and y of the query, in pixels of the image.
        factor: From pixels of the image to those of the page.

    Returns:
        (height, width, 3), RGB, uint8.
    """
    columns = min(_COLUMNS, len(weights))
    gap, line = 6, 26
    width = (_HEADS - gap * (_COLUMNS - 1)) // _COLUMNS
    shrink = width / gray.shape[1]
    small_gray = resized(gray, shrink)
    small_cells = resized(cells, shrink)
    height = small_gray.shape[0]
    rows = math.ceil(len(weights) / columns) if len(weights) > 1 else 0
    page = Image.new('RGB', (_HEADS, rows * (height + line) + 48), 'white')
    draw = ImageDraw.Draw(page)
    for head, values in enumerate(weights if rows else []):
        x = head % columns * (width + gap)
        y = head // columns * (height + line)
        tile = attention_picture(small_gray, values, small_cells, scale)
        page.paste(Image.fromarray(marked(tile, point, factor * shrink)), (x, y))
        text = f'head {head + 1}: max {values.max():.3g}'
        draw.text((x, y + height + 2), text, 'black', _FONT)
    _draw_scale(page, page.height - 44, scale)
    return np.asarray(page)


def _draw_scale(page: Image.Image, top: int, scale: float) -> None:
    bright = np.linspace(0, 1, page.width // 2)
    colors = matplotlib.colormaps[CMAP](bright)[:, :3] * 255
    bar = np.broadcast_to(colors.astype(np.uint8), (14, *colors.shape))
    page.paste(Image.fromarray(np.ascontiguousarray(bar)), (4, top))
    draw = ImageDraw.Draw(page)
    ticks = scale_ticks(scale)
    for tick, share in zip(ticks, brightness(np.array(ticks), scale)):
        x = 4 + share * (len(bright) - 1)
        draw.line((x, top + 14, x, top + 18), 'black')
        draw.text((x, top + 19), f'{tick:g}', 'black', _FONT, anchor='ma' if tick else 'la')
    draw.text((len(bright) + 24, top), 'times uniform attention', 'black', _FONT)


def with_legend(
    picture: np.ndarray, legend: Sequence[tuple[str, Sequence[int]]]
) -> np.ndarray:
    """Add the names and colors of classes below a picture (H, W, 3)."""
    if not legend:
        return picture
    line, square = 26, 16
    places, x, y = [], 4, 0
    for name, color in legend:
        needed = square + 6 + math.ceil(_FONT.getlength(name)) + 14
        if x + needed > picture.shape[1] and x > 4:
            x, y = 4, y + line
        places.append((x, y, name, color))
        x += needed
    page = Image.new('RGB', (picture.shape[1], picture.shape[0] + y + line + 4), 'white')
    page.paste(Image.fromarray(picture))
    draw = ImageDraw.Draw(page)
    for x, y, name, color in places:
        y += picture.shape[0] + 5
        draw.rectangle((x, y, x + square, y + square), tuple(color), 'black')
        draw.text((x + square + 6, y - 2), name, 'black', _FONT)
    return np.asarray(page)


def gray_of(picture: np.ndarray) -> np.ndarray:
    """Compute the brightness (H, W), uint16, of (H, W, 3), RGB."""
    return picture.mean(axis=2).astype(np.uint16)
