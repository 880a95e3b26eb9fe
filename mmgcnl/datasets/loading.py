"""Checks of data sets, whose errors name the file and the remedy.

mmengine, mmdet and mmseg stop at most of these faults too, but late or without saying
where: a broken annotation file gives a JSONDecodeError without a path, a missing folder is
noticed at its first image (for the validation set, after an epoch of training), and a
label without a class fails an assertion inside a CUDA kernel.
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

from mmgcnl.utils.config_types import type_name

SET_ROOT = (
    'set the data root: in the environment for the configs here, for example COCO_ROOT '
    '(docs/data.md), else data_root of the data set'
)
NO_SAMPLE = 'no sample: no image is found, or none is left after filtering'


def build_dataloader(
    dataloader: DataLoader | dict, seed: int | None = None, diff_rank_seed: bool = False
) -> DataLoader:
    """Build a data loader as mmengine's Runner does, and check its data set.

    Args:
        dataloader: The config. A loader or data set that is already built is not checked.
        seed: See mmengine's Runner.build_dataloader.
        diff_rank_seed: See mmengine's Runner.build_dataloader.

    Raises:
        RuntimeError: The data set cannot be loaded, or :func:`check_dataset` finds a
            fault in it.
    """
    if isinstance(dataloader, DataLoader) or isinstance(dataloader['dataset'], Dataset):
        return Runner.build_dataloader(dataloader, seed, diff_rank_seed)
    try:
        loader = Runner.build_dataloader(dataloader, seed, diff_rank_seed)
    except (AssertionError, KeyError, OSError, ValueError) as error:
        places = '; '.join(map(describe, leaf_datasets(dataloader['dataset'])))
        raise RuntimeError(f'{places}: {explain(error)}') from error
    check_dataset(loader.dataset)
    return loader


def check_dataset(dataset: Dataset) -> None:
    """Check a data set, in part immediately and in part while its samples are loaded.

    Immediately: the folders exist, there are samples, and the first one loads. While
    loading: :class:`CheckedCompose`, which replaces the pipeline, checks each sample.

    Args:
        dataset: mmengine's BaseDataset, or a wrapper around such (repeated,
            concatenated). Data sets of other classes are not checked.

    Raises:
        RuntimeError: A folder is missing, there is no sample, or the first one cannot
            be loaded.
    """
    for leaf in leaf_datasets(dataset):
        if not isinstance(leaf, BaseDataset):
            continue
        check_folders(leaf)
        if not len(leaf):
            raise RuntimeError(f'{type(leaf).__name__}: {NO_SAMPLE}')
        if type(leaf.pipeline) is Compose:
            leaf.pipeline = CheckedCompose(leaf)
        # Data sets of videos are left out: they would load a whole video.
        if type(leaf).prepare_data is BaseDataset.prepare_data:
            leaf[0]


def check_folders(dataset: BaseDataset) -> None:
    """Raise a RuntimeError when a local folder of ``dataset`` is missing."""
    if getattr(dataset, 'backend_args', None):
        return
    for folder in dataset.data_prefix.values():
        if folder and '://' not in folder and not os.path.isdir(folder):
            name = type(dataset).__name__
            raise RuntimeError(f'{name}: no such folder: {folder}; {SET_ROOT}')


class CheckedCompose(Compose):
    """The pipeline of a data set, with errors that name the faulty file.

    Args:
        dataset: The data set whose pipeline it is.

    Raises:
        RuntimeError: When called: a transform fails, for example because an image does
            not decode; or a label map of a segmentation data set has values that are
            neither classes nor ignored.
    """

    def __init__(self, dataset: BaseDataset) -> None:
        super().__init__(dataset.pipeline.transforms)
        self.num_classes = len(dataset.metainfo.get('classes', ()))
        # Only mmseg's data sets have it; mmdet maps category ids to classes by itself.
        self.ignore_index = getattr(dataset, 'ignore_index', None)

    def __call__(self, data: dict) -> dict | None:
        """Run the transforms on the information on a sample."""
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
                    reason += '; replace the file, or remove the sample'
                raise RuntimeError(f'{name} failed on {files}: {reason}') from error
            if data is None:
                return None
            # Check the map as loaded: a later transform may crop away what is wrong.
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
                f'{self.ignore_index} is ignored; correct the file, or set the classes or '
                'the ignore_index of the data set to those of its labels'
            )


def leaf_datasets(dataset: Any) -> Iterator[Any]:
    """Yield the data sets inside a wrapper, or their configs inside its config."""
    get = dataset.get if isinstance(dataset, dict) else vars(dataset).get
    if get('datasets') is not None:
        for part in get('datasets'):
            yield from leaf_datasets(part)
    elif get('dataset') is not None:
        yield from leaf_datasets(get('dataset'))
    else:
        yield dataset


def describe(config: dict) -> str:
    """Format the class and the paths of a data set, given its config."""
    root = config.get('data_root') or ''
    places = [config.get('ann_file'), *(config.get('data_prefix') or {}).values()]
    paths = ', '.join(os.path.join(root, place) for place in places if place)
    return f'{type_name(config.get("type"))} of {paths}'


def explain(error: Exception) -> str:
    """Say why a data set cannot be built, and what to do about it."""
    text = f'{type(error).__name__}: {error}'
    if isinstance(error, (JSONDecodeError, UnicodeDecodeError)):
        return (
            f'the annotation file is not JSON ({text}); check that it is complete, '
            'unpacked, and not the error page of a download'
        )
    if isinstance(error, FileNotFoundError):
        return f'{text}; {SET_ROOT}'
    if 'need at least one array' in str(error):  # numpy: the list of samples is empty
        return NO_SAMPLE
    if isinstance(error, KeyError) and ' ' not in str(error):  # unlike the registry's
        return f'an entry of the annotation file, or the config, lacks {error}'
    return text
