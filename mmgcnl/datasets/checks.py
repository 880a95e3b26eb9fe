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

import numpy as np
from mmengine.dataset import BaseDataset, Compose
from mmengine.runner import Runner
from torch.utils.data import DataLoader, Dataset

SET_ROOT = (
    'set the data root: in the environment for the configs here, for example COCO_ROOT '
    '(docs/data.md), else data_root of the data set'
)
NO_SAMPLE = 'no sample: no image is found, or none is left after filtering'


def build_dataloader(
    dataloader: DataLoader | dict, seed: int | None = None, diff_rank_seed: bool = False
) -> DataLoader:
    """mmengine's Runner.build_dataloader, with the data set checked.

    What is built already, the loader or its data set, is left alone.

    Raises:
        RuntimeError: The data set cannot be loaded, or :func:`check_dataset` finds a
            fault in it.
    """
    if isinstance(dataloader, DataLoader) or isinstance(dataloader['dataset'], Dataset):
        return Runner.build_dataloader(dataloader, seed, diff_rank_seed)
    try:
        loader = Runner.build_dataloader(dataloader, seed, diff_rank_seed)
    except (AssertionError, KeyError, OSError, ValueError) as error:
        places = '; '.join(map(describe, leaves(dataloader['dataset'])))
        raise RuntimeError(f'{places}: {explain(error)}') from error
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
    for leaf in leaves(dataset):
        if not isinstance(leaf, BaseDataset):
            continue
        check_folders(leaf)
        if not len(leaf):
            raise RuntimeError(f'{type(leaf).__name__}: {NO_SAMPLE}')
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
            name = type(dataset).__name__
            raise RuntimeError(f'{name}: no such folder: {folder}; {SET_ROOT}')


class CheckedCompose(Compose):
    """The pipeline of ``dataset``, naming the file in which something is wrong.

    Called with a sample's information, it raises RuntimeError when a transform fails,
    for example on an image that does not decode, and when a label map of a
    segmentation data set has values that are neither classes nor ignored.
    """

    def __init__(self, dataset: BaseDataset) -> None:
        super().__init__(dataset.pipeline.transforms)
        self.num_classes = len(dataset.metainfo.get('classes', ()))
        # None but for mmseg's: mmdet maps category ids to classes by itself.
        self.ignore_index = getattr(dataset, 'ignore_index', None)

    def __call__(self, data: dict) -> dict | None:
        image = data.get('img_path')
        labels = data.get('seg_map_path')
        unchecked = self.num_classes > 0 and self.ignore_index is not None
        for transform in self.transforms:
            try:
                data = transform(data)
            except Exception as error:
                name = type(transform).__name__
                files = f'image {image}' + (f', labels {labels}' if labels else '')
                reason = f'{type(error).__name__}: {error}'.strip()
                if name.startswith('Load'):
                    reason += '; replace the file, or take the sample out'
                raise RuntimeError(f'{name} failed on {files}: {reason}') from error
            if data is None:
                return None
            # As loaded: a later transform may crop away what is wrong.
            if unchecked and 'gt_seg_map' in data:
                self._check_labels(data['gt_seg_map'], labels)
                unchecked = False
        return data

    def _check_labels(self, values: np.ndarray, path: str | None) -> None:
        wrong = (values >= self.num_classes) & (values != self.ignore_index)
        if wrong.any():
            raise RuntimeError(
                f'{path}: label value {np.unique(values[wrong]).tolist()}, but there are '
                f'{self.num_classes} classes, 0 to {self.num_classes - 1}, and '
                f'{self.ignore_index} is ignored; correct the file, or give the data '
                'set the classes or the ignore_index that it was labelled with'
            )


def leaves(dataset: Any) -> Iterator[Any]:
    """The data sets, or configs of them, that a wrapper or its config wraps."""
    get = dataset.get if isinstance(dataset, dict) else vars(dataset).get
    if get('datasets') is not None:
        for part in get('datasets'):
            yield from leaves(part)
    elif get('dataset') is not None:
        yield from leaves(get('dataset'))
    else:
        yield dataset


def describe(config: dict) -> str:
    """Class and places of a data set, given its config."""
    root = config.get('data_root') or ''
    places = [config.get('ann_file'), *(config.get('data_prefix') or {}).values()]
    paths = ', '.join(os.path.join(root, place) for place in places if place)
    return f'{config.get("type")} of {paths}'


def explain(error: Exception) -> str:
    """What is wrong when a data set cannot be built, and what to do."""
    text = f'{type(error).__name__}: {error}'
    if isinstance(error, (JSONDecodeError, UnicodeDecodeError)):
        return (
            f'the annotation file is not JSON ({text}); '
            'is it complete, unpacked and no error page?'
        )
    if isinstance(error, FileNotFoundError):
        return f'{text}; {SET_ROOT}'
    if 'need at least one array' in str(error):  # numpy, of an empty list of samples
        return NO_SAMPLE
    return text
