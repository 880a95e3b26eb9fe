"""Images and ground truth of a config's data set, one at a time."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import mmcv
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope
from mmengine.structures import BaseDataElement, PixelData
from torch.utils.data import Dataset

from mmgcnl.datasets import build_dataloader
from mmgcnl.datasets.loading import leaf_datasets
from mmgcnl.datasets.pictures import loads_image
from mmgcnl.utils.config_types import scope_of


class Sample(NamedTuple):
    """An image of a data set.

    Attributes:
        path: Path of the image.
        data: The output of the split's pipeline for it.
        truth: A data sample with the ground truth at the image's size, or without any if
            the pipeline loads none. None for an image that is of no data set.
    """

    path: str
    data: dict[str, Any]
    truth: BaseDataElement | None


class Split(Dataset):
    """The first images of a data set of a config, each decoded once.

    Args:
        cfg: The config.
        split: 'val' or 'test'.
        number: How many images. None: all.
        truth: Whether to load the ground truth.

    Raises:
        ValueError: The config has no such split.
        RuntimeError: A file is missing or faulty. Reading a sample may raise this, too.
    """

    def __init__(
        self, cfg: Config, split: str, number: int | None = None, truth: bool = True
    ) -> None:
        loader = cfg.get(f'{split}_dataloader')
        if loader is None:
            raise ValueError(f'the config has no {split}_dataloader: give another split')
        init_default_scope(scope_of(cfg))
        self.num_workers = loader.get('num_workers', 0)
        loaded: Any = build_dataloader(
            dict(
                dataset=loader.dataset,
                batch_size=1,
                sampler=dict(type='DefaultSampler', shuffle=False),
            )
        )
        self.dataset = loaded.dataset
        self.number = min(len(self.dataset), number or len(self.dataset))
        first = next(leaf_datasets(self.dataset))  # of several data sets
        self.pipeline = first.pipeline
        steps = self.pipeline.transforms
        names = [type(step).__name__ for step in steps]
        read = next((i + 1 for i, n in enumerate(names) if loads_image(n)), 0)
        self.read = self._part(steps[:read])
        rest = list(zip(names[read:], steps[read:]))
        self.prepare = self._part([s for n, s in rest if not n.startswith('Load')])
        # Without what resizes, for truth at the image's size.
        load = [s for n, s in rest if n.startswith(('Load', 'Pack'))]
        self.load = self._part(load) if truth else None

    def _part(self, steps: list[Any]) -> Compose:
        """Make a pipeline of some of the steps, with the checks of the whole one."""
        pipeline = copy.copy(self.pipeline)
        pipeline.transforms = steps
        return pipeline

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, index: int) -> Sample:
        if index >= self.number:
            raise IndexError(index)
        results = self.read(self.dataset.get_data_info(index))
        truth = BaseDataElement()
        if self.load is not None:
            truth = self.load(copy.deepcopy(results))['data_samples']
        return Sample(results['img_path'], self.prepare(results), truth)


def read_label_map(path: str, size: tuple[int, int]) -> BaseDataElement:
    """Read a label map as the ground truth of an image.

    Args:
        path: Path of the label map, an image of one channel.
        size: (H, W) of the image.

    Returns:
        A data sample with ``gt_sem_seg``, (1, H, W), int64.

    Raises:
        ValueError: The file does not decode, or has another shape than ``size``.
    """
    labels = mmcv.imread(path, 'unchanged')
    if labels is None or labels.shape != size:
        found = 'no image' if labels is None else f'of shape {labels.shape}'
        raise ValueError(f'{path} is {found}: give a label map of shape {size}')
    data = torch.from_numpy(labels.astype(np.int64))[None]
    return BaseDataElement(gt_sem_seg=PixelData(data=data))


def label_map(truth: BaseDataElement) -> np.ndarray | None:
    """Make a label map of any ground truth.

    Objects are painted from the largest to the smallest: their masks or, if there are
    none, their boxes.

    Args:
        truth: A data sample with ``gt_sem_seg`` or ``gt_instances``, or neither.

    Returns:
        The class of each pixel (H, W), 255 for none; None if there is no ground truth.
    """
    if 'gt_sem_seg' in truth:
        maps = truth.gt_sem_seg
        return np.asarray(maps.sem_seg if 'sem_seg' in maps else maps.data)[0]
    instances = truth.get('gt_instances')
    if instances is None:
        return None
    labels = np.full(truth.ori_shape[:2], 255)
    if 'masks' in instances:
        masks = instances.masks.to_ndarray().astype(bool)
    else:
        y, x = np.mgrid[: labels.shape[0], : labels.shape[1]]
        masks = np.array(
            [
                (x >= x1) & (x < x2) & (y >= y1) & (y < y2)
                for x1, y1, x2, y2 in instances.bboxes.tensor.tolist()
            ]
        ).reshape(-1, *labels.shape)
    for i in np.argsort(-masks.sum((1, 2)), kind='stable'):
        labels[masks[i]] = int(instances.labels[i])
    return labels
