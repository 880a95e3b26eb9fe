"""The files that a test writes of its predictions, and their names.

mmseg and mmdet name them by the file name of the image alone: of images with the same name
in several folders, only the last one's would be left.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmgcnl.datasets.loading import leaf_datasets
from mmgcnl.structures import write_labels

from .options import ConfigError

#: Metrics of mmdet that name files by that of the image, if they have an outfile_prefix.
_NAMED_BY_IMAGE = ('CityScapesMetric', 'CocoPanopticMetric')


def name_outputs(paths: Iterable[str]) -> dict[str, str]:
    """Name the files that are written for images.

    Returns:
        For each path a relative path without suffix: the name of the image or, where these
        repeat, also its folders below the one that all images are in.

    Raises:
        ConfigError: Two images differ in their suffix only.
    """
    parts = {path: _complete(path).split('/') for path in paths}
    names = {path: Path(part[-1]).stem for path, part in parts.items()}
    if _twins(names) is not None:
        shared = len(os.path.commonprefix([part[:-1] for part in parts.values()]))
        names = {
            path: os.path.join(*part[shared:-1], names[path])
            for path, part in parts.items()
        }
    check_distinct(names, 'test them in two runs with different folders')
    return names


def check_distinct(files: Mapping[str, str], remedy: str) -> None:
    """Check that inputs are written to different files.

    Args:
        files: The file, or its name, of each input.
        remedy: The end of the message.

    Raises:
        ConfigError: Two inputs have the same file.
    """
    twins = _twins(files)
    if twins is not None:
        raise ConfigError(
            f'{twins[0]} and {twins[1]} would be written to the same file: {remedy}'
        )


def _complete(path: str) -> str:
    return path if '://' in path else Path(os.path.abspath(path)).as_posix()


def _twins(files: Mapping[str, str]) -> tuple[str, str] | None:
    seen: dict[str, str] = {}
    for path, file in files.items():
        other = seen.setdefault(file, path)
        if other != path:
            return other, path
    return None


def image_paths(dataset: Any) -> Iterator[str]:
    """Yield the paths of a data set's images; none if it does not tell them."""
    if not hasattr(dataset, 'get_data_info'):
        return
    for index in range(len(dataset)):
        path = dataset.get_data_info(index).get('img_path')
        if isinstance(path, str):
            yield path


class LabelMapHook(Hook):
    """Writes the label maps that a segmentor predicts in a test.

    As in mmseg's IoUMetric, the classes start at 1 for data sets with
    ``reduce_zero_label``. The names are those of :func:`name_outputs`.

    Args:
        out_dir: The folder that gets them.
    """

    def __init__(self, out_dir: str) -> None:
        self.out_dir = out_dir
        self.names: dict[str, str] = {}
        self.num_classes = 0

    def before_test(self, runner: Runner) -> None:
        """Name the files, as :func:`name_outputs`."""
        dataset = runner.test_dataloader.dataset
        self.names = name_outputs(image_paths(dataset))
        classes = getattr(dataset, 'metainfo', {}).get('classes') or ()
        parts = list(leaf_datasets(dataset))
        start = any(getattr(part, 'reduce_zero_label', False) for part in parts)
        self.num_classes = len(classes) + start

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Sequence[Any] | None = None,
    ) -> None:
        """Write the label maps of mmseg's data samples, ``pred_sem_seg`` (1, H, W)."""
        for sample in outputs or ():
            labels = sample.pred_sem_seg.data[0].cpu().numpy()
            if sample.get('reduce_zero_label', False):
                labels = labels + 1
            name = self.names.get(sample.img_path, Path(sample.img_path).stem)
            write_labels(
                labels, os.path.join(self.out_dir, f'{name}.png'), self.num_classes
            )


class DistinctNamesHook(Hook):
    """Stops before metrics of the libraries would write several images to one file.

    Or more classes than fit into the files, which have 8 bits.
    """

    def before_val(self, runner: Runner) -> None:
        """Check the metrics of a validation."""
        self._check(runner.val_loop)

    def before_test(self, runner: Runner) -> None:
        """Check the metrics of a test."""
        self._check(runner.test_loop)

    def _check(self, loop: Any) -> None:
        evaluator = getattr(loop, 'evaluator', None)
        for metric in getattr(evaluator, 'metrics', ()):
            name = type(metric).__name__
            folder = getattr(metric, 'output_dir', None)
            if folder is None and name in _NAMED_BY_IMAGE:
                folder = getattr(metric, 'outfile_prefix', None)
            if folder is None:
                continue
            dataset = loop.dataloader.dataset
            twins = _twins({path: Path(path).stem for path in image_paths(dataset)})
            if twins is not None:
                raise ConfigError(
                    f'{name} names its files in {folder} by the image: {twins[0]} and '
                    f'{twins[1]} would be written to the same one; evaluate their folders '
                    'in several runs, or write label maps by tools/test.py --out'
                )
            classes = getattr(dataset, 'metainfo', {}).get('classes') or ()
            if len(classes) > 256 and name not in _NAMED_BY_IMAGE:
                raise ConfigError(
                    f'{name} writes label maps of 8 bits to {folder}, which {len(classes)} '
                    'classes do not fit into: remove output_dir, and write them by '
                    'tools/test.py --out'
                )
