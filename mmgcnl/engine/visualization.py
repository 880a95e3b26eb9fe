"""The visualization hooks of mmdet and mmseg, drawing over what the pipeline loads.

Their own decode the file again, as an image of 8 bits and three channels: another one than
the model saw, or none at all.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmgcnl.datasets.loading import leaf_datasets
from mmgcnl.datasets.pictures import ImageReader, find_reader
from mmgcnl.utils.libraries import usable
from mmgcnl.utils.text import first_cause

from .output_files import image_paths, name_outputs


class _LoadedPictures:
    """Mixin of the visualization hooks; the first base of a class."""

    draw: bool
    interval: int
    show: bool
    wait_time: float
    _visualizer: Any
    _test_index: int = 0  # mmseg 1.2.2 does not set it
    _reader: ImageReader | None = None
    _names: dict[str, str] = {}

    def before_val(self, runner: Runner) -> None:
        """Find out how the validation images are loaded."""
        self._reader = _reader_of(runner.val_dataloader.dataset)

    def before_test(self, runner: Runner) -> None:
        """Find out how the test images are loaded, and name the pictures.

        Raises:
            ConfigError: Two images would be drawn to the same file.
        """
        dataset = runner.test_dataloader.dataset
        self._reader = _reader_of(dataset)
        folder = getattr(self, 'test_out_dir', None)  # of mmdet's hook
        if self.draw and folder is not None:
            self._names = name_outputs(image_paths(dataset))
            folder = os.path.join(runner.work_dir, runner.timestamp, folder)
            self.test_out_dir = folder

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any, outputs: Sequence[Any]
    ) -> None:
        """Draw the first image of every ``interval``-th batch."""
        step = runner.iter + batch_idx
        if self.draw and step % self.interval == 0:
            self._draw(runner, outputs[0], 'val', step)

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any, outputs: Sequence[Any]
    ) -> None:
        """Draw all images of a batch."""
        if not self.draw:
            return
        for sample in outputs:
            self._test_index += 1
            self._draw(runner, sample, 'test', self._test_index)

    def _draw(self, runner: Runner, sample: Any, split: str, step: int) -> None:
        path = sample.img_path
        name = os.path.basename(path)
        options: dict[str, Any] = dict(show=self.show, wait_time=self.wait_time, step=step)
        title = f'{split}_{name}'
        if hasattr(self, 'score_thr'):  # mmdet's hook
            title = name if self.show else f'{split}_img'
            options['pred_score_thr'] = self.score_thr
            if split == 'test' and getattr(self, 'test_out_dir', None) is not None:
                file = self._names.get(path, Path(path).stem) + Path(path).suffix
                options['out_file'] = os.path.join(self.test_out_dir, file)
        try:
            if self._reader is None:
                raise ValueError('the pipeline has no transform that loads an image')
            picture = self._reader.picture(path)
            self._visualizer.add_datasample(title, picture, data_sample=sample, **options)
        except Exception as error:  # a picture must not end a training
            runner.logger.warning(f'{path} is not drawn: {first_cause(error)}')


def _reader_of(dataset: Any) -> ImageReader | None:
    pipeline = getattr(next(leaf_datasets(dataset)), 'pipeline', None)
    try:
        return find_reader(getattr(pipeline, 'transforms', ()))
    except ValueError:
        return None


#: The hooks by those of the libraries that they replace.
VISUALIZATION_HOOKS: dict[type[Hook], type[Hook]] = {}

if usable('mmseg'):
    from mmseg.engine import SegVisualizationHook

    class LoadedSegVisualizationHook(_LoadedPictures, SegVisualizationHook):
        """mmseg's SegVisualizationHook over the images as the pipeline loads them."""

    VISUALIZATION_HOOKS[SegVisualizationHook] = LoadedSegVisualizationHook

if usable('mmdet'):
    from mmdet.engine.hooks import DetVisualizationHook

    class LoadedDetVisualizationHook(_LoadedPictures, DetVisualizationHook):
        """mmdet's DetVisualizationHook over the images as the pipeline loads them."""

    VISUALIZATION_HOOKS[DetVisualizationHook] = LoadedDetVisualizationHook
