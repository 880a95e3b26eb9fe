"""Faults of the data, told in one message that names the file and the remedy.

mmengine, mmdet and mmseg stop at most of them too, but a broken annotation file is a
JSONDecodeError without a path, a folder of images is missed only at the first image,
which for the validation is after an epoch of training, and a label without a class is
an assertion inside a CUDA kernel.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from json import JSONDecodeError
from typing import Any

from mmengine.dataset import BaseDataset, Compose
from mmengine.runner import Runner
from torch.utils.data import DataLoader, Dataset

_SET_ROOT = (
    'set the data root: CAMVID_ROOT or COCO_ROOT in the environment for the configs '
    'here, else data_root of the data set (docs/real_data.md)'
)
_NO_SAMPLE = 'no sample: no image is found, or none is left after filtering'


def build_dataloader(
    dataloader: DataLoader | dict, seed: int | None = None, diff_rank_seed: bool = False
) -> DataLoader:
    """mmengine's Runner.build_dataloader, with the data set checked.

    Raises:
        RuntimeError: The data set cannot be loaded, or :func:`check_dataset` finds a
            fault in it.
    """
    if isinstance(dataloader, DataLoader):
        return dataloader
    try:
        loader = Runner.build_dataloader(dataloader, seed, diff_rank_seed)
    except (AssertionError, KeyError, OSError, ValueError) as error:
        leaves = '; '.join(map(_describe, _leaves(dataloader['dataset'])))
        raise RuntimeError(f'{leaves}: {_explain(error)}') from error
    check_dataset(loader.dataset)
    return loader


def check_dataset(dataset: Dataset) -> None:
    """Check what can be checked at once, and have the rest checked on loading.

    At once: the folders are there and hold samples, of which the first one loads. On
    loading, here and later: see :class:`CheckedCompose`.

    Args:
        dataset (Dataset): mmengine's BaseDataset or a wrapper around some (repeated,
            concatenated); others are left alone.

    Raises:
        RuntimeError: A folder is missing, there is no sample, or the first one cannot
            be loaded.
    """
    for leaf in _leaves(dataset):
        if not isinstance(leaf, BaseDataset):
            continue
        check_folders(leaf)
        if not len(leaf):
            raise RuntimeError(f'{_describe(leaf)}: {_NO_SAMPLE}')
        if type(leaf.pipeline) is Compose:
            leaf.pipeline = CheckedCompose(leaf)
        # Not those of videos, which load a whole one.
        if type(leaf).prepare_data is BaseDataset.prepare_data:
            leaf[0]


def check_folders(dataset: BaseDataset) -> None:
    """Raise RuntimeError when a local folder of ``dataset`` is missing."""
    if getattr(dataset, 'backend_args', None):
        return
    for folder in dataset.data_prefix.values():
        if folder and '://' not in folder and not os.path.isdir(folder):
            raise RuntimeError(
                f'{_describe(dataset)}: no such folder: {folder}; {_SET_ROOT}'
            )


class CheckedCompose(Compose):
    """The pipeline of ``dataset``, naming the file in which something is wrong.

    Called with a sample's information, it raises RuntimeError when a transform fails,
    for example on an image that does not decode, and when a label map of a
    segmentation data set has values that are neither classes nor ignored.
    """

    def __init__(self, dataset: BaseDataset) -> None:
        super().__init__(dataset.pipeline.transforms)
        self.num_classes = len(dataset.metainfo.get('classes', ()))
        # Of mmseg's data sets only. mmdet maps category ids to classes by itself.
        self.ignore_index = getattr(dataset, 'ignore_index', None)

    def __call__(self, data: dict) -> dict | None:
        image = data.get('img_path')
        labels = data.get('seg_map_path')
        for transform in self.transforms:
            try:
                data = transform(data)
            except Exception as error:
                raise RuntimeError(
                    f'{type(transform).__name__} failed on image {image}'
                    + (f', labels {labels}' if labels else '')
                    + f': {type(error).__name__}: {error}'
                ) from error
            if data is None:
                return None
        sample = data.get('data_samples')
        if self.ignore_index is not None and 'gt_sem_seg' in (sample or ()):
            self._check_labels(sample.gt_sem_seg.data, labels)
        return data

    def _check_labels(self, values: Any, path: str) -> None:
        wrong = (values < 0) | (values >= self.num_classes)
        wrong &= values != self.ignore_index
        if wrong.any():
            raise RuntimeError(
                f'{path}: label value {values[wrong].unique().tolist()}, but there are '
                f'{self.num_classes} classes, 0 to {self.num_classes - 1}, and '
                f'{self.ignore_index} is ignored; correct the file, or give the data '
                'set the classes or the ignore_index that it was labelled with'
            )


def _leaves(dataset: Any) -> Iterator[Any]:
    """The data sets, or configs of them, that a wrapper or its config wraps."""
    get = dataset.get if isinstance(dataset, dict) else vars(dataset).get
    if get('datasets') is not None:
        for part in get('datasets'):
            yield from _leaves(part)
    elif get('dataset') is not None:
        yield from _leaves(get('dataset'))
    else:
        yield dataset


def _describe(dataset: Any) -> str:
    """Name and place of a data set, given it or its config."""
    get = dataset.get if isinstance(dataset, dict) else vars(dataset).get
    name = get('type') if isinstance(dataset, dict) else type(dataset)
    keys = ('data_root', 'ann_file', 'data_prefix')
    places = ', '.join(f'{key}={get(key)!r}' for key in keys if get(key))
    return f'{getattr(name, "__name__", name)}({places})'


def _explain(error: Exception) -> str:
    text = f'{type(error).__name__}: {error}'
    if isinstance(error, (JSONDecodeError, UnicodeDecodeError)):
        return (
            f'the annotation file is not JSON ({text}); '
            'is it complete, unpacked, and not an error page?'
        )
    if isinstance(error, FileNotFoundError):
        return f'{text}; {_SET_ROOT}'
    if 'need at least one array' in str(error):  # numpy, of an empty list of samples
        return _NO_SAMPLE
    return text
