"""Faults of label maps and of the settings that mmseg reads them with.

Shape shorthand: H, W: pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import Any

import mmcv
import numpy as np
from mmengine.dataset import BaseDataset
from mmengine.fileio import get, list_dir_or_file
from mmengine.logging import print_log
from PIL import Image, UnidentifiedImageError

from mmgcnl.utils.text import first_names

from .orientation import explain_orientation, no_size_limit

#: mmseg reads label maps as uint8, in which 255 is for pixels that are ignored.
MAX_CLASSES = 255
# PIL's modes with 8 bits per value at most.
_EIGHT_BITS = ('1', 'L', 'P', 'LA', 'PA', 'RGB', 'RGBA')
_IMAGES = (
    *('.jpg', '.jpeg', '.jpe', '.jfif', '.jp2', '.png', '.bmp', '.dib', '.tif', '.tiff'),
    *('.webp', '.avif', '.gif', '.ppm', '.pgm', '.pbm', '.pnm', '.exr', '.hdr'),
)


def check_number_of_classes(dataset: BaseDataset) -> Iterator[str]:
    """Find a data set with more classes than mmseg's label maps can have."""
    classes = dataset.metainfo.get('classes') or ()
    loaders = (step for step in dataset.pipeline.transforms if _reads_as_uint8(step))
    if len(classes) > MAX_CLASSES and next(loaders, None) is not None:
        yield (
            f'{len(classes)} classes, but mmseg reads label maps with 8 bits, of which 255 '
            f'is ignored: at most {MAX_CLASSES} classes; combine some of them'
        )


def find_label_fault(
    step: Any,
    results: dict,
    num_classes: int,
    ignore_index: int | None,
    backend_args: dict | None = None,
    stored: bool = True,
) -> str | None:
    """Find what is wrong with a label map that was just loaded, in a sentence.

    Args:
        step: The step of the pipeline that has loaded it.
        results: The sample, with the label map ``gt_seg_map``.
        num_classes: Number of classes; 0: values are not checked.
        ignore_index: Value of pixels that are ignored; None: values are not checked.
        backend_args: See mmengine's fileio, for the images.
        stored: Whether to read the file again, to look at the values in it, too.
    """
    labels, path = results['gt_seg_map'], results.get('seg_map_path')
    if labels.ndim != 2:
        return (
            f'{path} has {labels.shape[2]} channels: give the numbers of the classes, from '
            '0, in one channel, and no colors'
        )
    height, width = results.get('ori_shape', labels.shape)[:2]
    if labels.shape != (height, width):
        image = results.get('img_path', 'the image')
        rows, columns = labels.shape
        return f'{path} is {columns}x{rows}, but {image} {width}x{height}' + (
            explain_orientation(image, (height, width), labels.shape, backend_args)
        )
    if not num_classes or ignore_index is None:
        return None
    content = _read_for_uint8(step, path) if stored else b''
    if _is_scaled(step, content):
        return (
            f'{path} has less than 8 bits per pixel, and its values are scaled up to 255 '
            'when it is read: write it with 8 bits'
        )
    wrong = _find_lost_values(step, content)
    if not wrong.size:
        wrong = np.unique(labels[(labels >= num_classes) & (labels != ignore_index)])
    if not wrong.size:
        return None
    values = first_names(map(str, wrong.tolist()))
    return (
        f'{path}: label value [{values}], but there are {num_classes} classes, 0 to '
        f'{num_classes - 1}, and {ignore_index} is ignored; correct the file, or set the '
        'classes or the ignore_index of the data set to those of its labels'
    )


def _reads_as_uint8(step: Any) -> bool:
    """Tell whether a step is mmseg's LoadAnnotations, or inherits its reading."""
    method = getattr(type(step), '_load_seg_map', None)
    return getattr(method, '__module__', '').startswith('mmseg.')


def _read_for_uint8(step: Any, path: str | None) -> bytes:
    """Read a label file again, as it is stored; nothing if no cast to uint8 follows."""
    if path is None or not _reads_as_uint8(step):
        return b''
    return get(path, backend_args=step.backend_args)


def _is_scaled(step: Any, content: bytes) -> bool:
    """Tell whether PIL or OpenCV scale the values of a gray PNG to 0 to 255."""
    if content[:4] != b'\x89PNG' or step.imdecode_backend not in ('pillow', 'cv2'):
        return False
    bits, color_type = content[24:26]
    # PIL reads a single bit as true and false, which stay 0 and 1.
    return color_type == 0 and bits < 8 and (bits > 1 or step.imdecode_backend == 'cv2')


def _find_lost_values(step: Any, content: bytes) -> np.ndarray:
    """Find values in a file that are others, or none, as uint8."""
    if not content:
        return np.zeros(0)
    if step.imdecode_backend != 'tifffile':
        try:
            with Image.open(BytesIO(content)) as image:
                if image.mode in _EIGHT_BITS:
                    return np.zeros(0)
        except UnidentifiedImageError:
            pass  # the step has read it nevertheless
    stored = mmcv.imfrombytes(content, flag='unchanged', backend=step.imdecode_backend)
    with np.errstate(invalid='ignore'):
        return np.unique(stored[stored != stored.astype(np.uint8)])


@no_size_limit()
def find_only_class(datasets: Sequence[BaseDataset]) -> str | None:
    """Find label maps with a single class and ignored pixels, which teach nothing.

    Reads the label maps until there is a second class: usually one.

    Args:
        datasets: The parts of the training data.

    Returns:
        A sentence, if all label maps are like that.
    """
    found: set[int] = set()
    ignored = False
    for dataset in datasets:
        loaders = [step for step in dataset.pipeline.transforms if _reads_as_uint8(step)]
        if not loaders or len(dataset.metainfo.get('classes') or ()) < 2:
            return None
        # In any order but that of the names, in which the first ones are often alike.
        order = np.random.default_rng(0).permutation(len(dataset)).tolist()
        for number, index in enumerate(order):
            if number == 100:
                print_log(
                    'The first 100 label maps have a single class, and ignored pixels: '
                    'looking for another class in all of them',
                    'current',
                )
            try:
                labels = loaders[0].transform(dataset.get_data_info(index))['gt_seg_map']
            except Exception:  # which stops the training at this sample
                return None
            values = set(np.unique(labels).tolist())
            ignored |= dataset.ignore_index in values
            found |= values - {dataset.ignore_index}
            if len(found) > 1 or not ignored and number > 20:
                return None
    if not ignored:
        return None
    names = [datasets[0].metainfo['classes'][value] for value in found]
    return (
        f'all pixels of the label maps are {first_names(names) or "ignored"} or have the '
        f'value {datasets[0].ignore_index}, which is ignored: number the classes from 0 '
        'on, for two classes 0 and 1, and not 0 and 255'
    )


def find_other_suffixes(dataset: BaseDataset) -> Iterator[str]:
    """Find images that mmseg leaves out because their names end differently."""
    suffix = getattr(dataset, 'img_suffix', None)
    folder = dataset.data_prefix.get('img_path')
    if suffix is None or not folder or dataset.ann_file:
        return
    files = list_dir_or_file(
        folder, list_dir=False, recursive=True, backend_args=dataset.backend_args
    )
    known: tuple[str, ...] = (suffix,)
    if dataset.data_prefix.get('seg_map_path') == folder:
        known += (dataset.seg_map_suffix,)
    images = (file for file in files if file.lower().endswith(_IMAGES))
    others = sorted(file for file in images if not file.endswith(known))
    if others:
        yield (
            f'{len(others)} images in {folder} do not end with {suffix} and are left out: '
            f'{first_names(others)}; set img_suffix, or rename them'
        )
