"""What inference is run on: images and videos, by path, folder or glob."""

from __future__ import annotations

import glob
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mmengine.logging import print_log
from PIL import Image as PILImage

from mmgcnl.utils.text import first_names

from .overlays import Image

#: Suffixes of the files in a folder that are taken as images.
IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.ppm', '.pgm')
#: Suffixes of the files that are taken as videos.
VIDEO_SUFFIXES = (
    *('.3gp', '.asf', '.avi', '.f4v', '.flv', '.m2ts', '.m4v', '.mkv', '.mov', '.mp4'),
    *('.mpeg', '.mpg', '.mts', '.mxf', '.ogv', '.ts', '.vob', '.webm', '.wmv'),
)


def find_images(inputs: Image | Sequence[Image]) -> list[Image]:
    """Find images by path, folder, glob or URL.

    Args:
        inputs: One or several of these; arrays are passed through.

    Returns:
        The images in the order of ``inputs``, those of a folder or glob sorted by name.

    Raises:
        FileNotFoundError: A path, folder or glob has no image.
    """
    if isinstance(inputs, (str, Path, np.ndarray)):
        inputs = [inputs]  # type: ignore[list-item]
    images: list[Image] = []
    for item in inputs:
        if isinstance(item, np.ndarray) or '://' in str(item):
            images.append(item)
            continue
        path = Path(item)
        if path.is_file():
            found = [path]
        elif path.is_dir():
            files = sorted(p for p in path.iterdir() if p.is_file())
            found = [p for p in files if p.suffix.lower() in IMAGE_SUFFIXES]
            skipped = [p.name for p in files if p not in found]
            if found and skipped:
                print_log(
                    f'{len(skipped)} files in {item} are skipped, whose suffixes are not '
                    f'those of images: {first_names(skipped)}; give images and videos '
                    'among them by name',
                    'current',
                    logging.WARNING,
                )
        else:
            found = [Path(p) for p in expand_glob(str(item)) if Path(p).is_file()]
        if not found:
            raise FileNotFoundError(f'no image: {item}{_inside(path)}')
        images += sorted(map(str, found))
    return images


def _inside(path: Path) -> str:
    """Say what there is in a folder without images."""
    if not path.is_dir():
        return ''
    entries = sorted(path.iterdir())
    folders = [entry.name for entry in entries if entry.is_dir()]
    if folders:
        return (
            f', but folders ({first_names(folders)}): give these, or for the images of all '
            f"of them the glob '{path}/**/*.png'"
        )
    suffixes = {entry.suffix.lower() or entry.name for entry in entries}
    if not suffixes:
        return ', the folder is empty'
    return (
        f', but files with {first_names(sorted(suffixes))}: in a folder, the suffixes of '
        f'images are {", ".join(IMAGE_SUFFIXES)}; give videos by name'
    )


def is_video(source: str) -> bool:
    """Tell a video file, by its suffix, or the number of a camera from an image.

    A GIF is a video if it has several frames.
    """
    path = Path(source)
    if source.isdecimal() and not path.exists():
        return True
    if path.suffix.lower() == '.gif' and path.is_file():
        try:
            with PILImage.open(path) as image:
                return getattr(image, 'n_frames', 1) > 1
        except (OSError, SyntaxError):  # the loader will report it
            return False
    return path.suffix.lower() in VIDEO_SUFFIXES


def expand_glob(item: str) -> list[str]:
    """List the files that a glob matches, sorted; anything else stays as it is."""
    if '://' in item or Path(item).exists():
        return [item]
    files = [path for path in glob.glob(item, recursive=True) if Path(path).is_file()]
    return sorted(files) or [item]
