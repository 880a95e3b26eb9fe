"""Inference in three lines: find the images, run the model, draw and write."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.infer import BaseInferencer
from mmengine.registry import init_default_scope
from mmengine.structures import BaseDataElement
from mmengine.utils import track_iter_progress
from mmengine.visualization import Visualizer
from torch import nn

from mmgcnl.datasets.pictures import find_reader
from mmgcnl.engine.output_files import check_distinct
from mmgcnl.structures import (
    PanopticPrediction,
    Prediction,
    SemanticPrediction,
    decode_prediction,
)
from mmgcnl.utils.config_types import scope_of, visualizer_of
from mmgcnl.utils.text import first_cause

from .inputs import find_images
from .model import image_pipeline, init_model
from .overlays import Image, Overlays
from .writer import ResultWriter

MAPS = ('sem_seg', 'panoptic_seg')


class Inferencer(BaseInferencer):
    """Segments images with the model of any config: semantic, instance or panoptic.

    ::

        inferencer = Inferencer('config.py', 'weights.pth')
        inferencer('a.jpg')['predictions'][0]
        inferencer(['folder', '*.png'], out_dir='results')

    It is a BaseInferencer of mmengine and uses the loaders and visualizers of mmdet and
    mmseg. It replaces their own inferencers, which stop at the first unreadable image,
    need panopticapi for panoptic segmentation, keep all label maps in memory (mmseg),
    and accept a checkpoint that does not fit the config.

    Args:
        model: The config, or its path.
        weights: Path or URL of the checkpoint.
        device: Such as 'cpu' or 'cuda:1'. Default: a GPU if there is one.
        show_progress: Whether to show a progress bar.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        ValueError: The checkpoint cannot be read, or does not fit the config.
    """

    def __init__(
        self,
        model: str | Path | Config,
        weights: str,
        device: str | None = None,
        show_progress: bool = True,
    ) -> None:
        cfg = model if isinstance(model, Config) else Config.fromfile(model)
        super().__init__(cfg, weights, device, scope_of(cfg), show_progress=show_progress)
        reader = find_reader(self.pipeline.transforms)
        self.overlays = Overlays(self.visualizer, self.scope, reader)

    def __call__(  # type: ignore[override]
        self,
        inputs: Image | Sequence[Image],
        return_datasamples: bool = False,
        batch_size: int = 1,
        return_vis: bool = False,
        out_dir: str | Path = '',
        pred_score_thr: float = 0.3,
    ) -> dict[str, Any]:
        """Segment images.

        Args:
            inputs: Paths of images or folders, globs, arrays as the config's loader gives
                them ((H, W, 3) in BGR, unless it says otherwise), or a sequence of these.
            return_datasamples: Return the libraries' data samples instead of dicts.
            batch_size: Images per forward pass.
            return_vis: Also return the overlays.
            out_dir: Folder that :class:`ResultWriter` writes to. Default: nothing is
                written.
            pred_score_thr: Instances with a lower score are not drawn; they stay among
                the predictions.

        Returns:
            ``predictions``: for each image that could be segmented, a dict (see
            :meth:`postprocess`) or a data sample. With ``out_dir``, the dict has the
            path of a file in place of a map. ``visualization``: the overlays
            (H, W, 3) in RGB. ``failed``: for each image that could not be read, or that
            the model does not take, by its name, the reason.

        Raises:
            FileNotFoundError: A path, folder or glob has no image.
            ValueError: Two images would be written to the same file.
        """
        images = find_images(inputs)
        named = [
            (f'{i:08d}' if isinstance(image, np.ndarray) else image, image)
            for i, image in enumerate(images)
        ]
        if out_dir:
            check_distinct(
                {name: Path(name).stem for name, _ in named},
                'segment them in two runs with different output folders',
            )
        init_default_scope(self.scope)
        results: dict[str, Any] = dict(predictions=[], visualization=[], failed={})
        writer = ResultWriter(out_dir, self.model.dataset_meta) if out_dir else None
        chunks = [named[i : i + batch_size] for i in range(0, len(named), batch_size)]
        # Closed after an error too: the results so far get their JSON.
        with closing(writer) if writer else nullcontext():
            for chunk in track_iter_progress(chunks) if self.show_progress else chunks:
                for name, image, pred in self._predict(chunk, results['failed']):
                    prediction = self._decode(pred)
                    result: Any = self._to_dict(prediction)
                    if return_vis or writer:
                        try:
                            drawn = self.overlays.draw(image, pred, pred_score_thr)
                        except Exception as error:  # such as an image of 1 x 100000
                            reason = f'it cannot be drawn: {first_cause(error)}'
                            results['failed'][name] = reason
                            continue
                        if return_vis:
                            results['visualization'].append(drawn)
                        if writer:
                            paths = writer.add(name, pred.ori_shape, prediction, drawn)
                            result = {k: v for k, v in result.items() if k not in MAPS}
                            result.update(paths)
                    results['predictions'].append(pred if return_datasamples else result)
        return results

    def _predict(
        self, chunk: list[tuple[str, Image]], failed: dict[str, str]
    ) -> list[tuple[str, Image, BaseDataElement]]:
        """Run the model on a batch; add the images that fail to ``failed``."""
        batch = []
        for name, image in chunk:
            try:
                batch.append((name, image, self.pipeline(image)))
            except Exception as error:  # decoders raise all kinds of errors
                failed[name] = f'{type(error).__name__}: {error}'
        return self._run(batch, failed) if batch else []

    def _run(
        self, batch: list[tuple[str, Image, dict]], failed: dict[str, str]
    ) -> list[tuple[str, Image, BaseDataElement]]:
        """Run the model on loaded images, together or, if that fails, one by one."""
        try:
            preds = self.forward(self.collate_fn([data for _, _, data in batch]))
            return [(name, image, p.cpu()) for (name, image, _), p in zip(batch, preds)]
        except Exception as error:  # memory, images of several sizes, or too small ones
            reason = first_cause(error)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(batch) == 1:
            failed[batch[0][0]] = f'the model fails on it: {reason}'
            return []
        return [done for one in batch for done in self._run([one], failed)]

    def visualize(
        self,
        inputs: Sequence[Image],
        preds: Sequence[BaseDataElement],
        pred_score_thr: float = 0.3,
        **kwargs: Any,
    ) -> list[np.ndarray]:
        """Draw each prediction over its image, see :meth:`Overlays.draw`."""
        return [
            self.overlays.draw(image, pred, pred_score_thr, **kwargs)
            for image, pred in zip(inputs, preds)
        ]

    def draw_truth(self, image: Image, truth: BaseDataElement) -> np.ndarray:
        """Draw ground truth, see :meth:`Overlays.draw_truth`."""
        return self.overlays.draw_truth(image, truth)

    def legend(self, *samples: BaseDataElement) -> list[tuple[str, Any]]:
        """List names and RGB colors of classes, see :meth:`Overlays.legend`."""
        return self.overlays.legend(samples)

    def postprocess(
        self, preds: Sequence[BaseDataElement], visualization: list, **kwargs: Any
    ) -> dict[str, Any]:
        """Turn data samples into dicts.

        Args:
            preds: Data samples.
            visualization: What :meth:`visualize` returned.
            **kwargs: Not used.

        Returns:
            ``predictions``: dicts, with ``sem_seg``, the class of each pixel (H, W); or
            with ``labels``, ``scores``, ``bboxes`` (x1, y1, x2, y2) and ``masks``
            (COCO's compressed run lengths) of instances; or with ``panoptic_seg``, the
            segment of each pixel, 0 being none, and ``segments_info`` as in COCO,
            except that category_id is the number of the class, from 0.
            ``visualization``: as given.
        """
        return dict(
            predictions=[self._to_dict(self._decode(pred)) for pred in preds],
            visualization=visualization,
        )

    def _decode(self, pred: BaseDataElement) -> Prediction:
        return decode_prediction(pred, len(self.model.dataset_meta['classes']))

    def _to_dict(self, prediction: Prediction) -> dict[str, Any]:
        if isinstance(prediction, SemanticPrediction):
            return dict(sem_seg=prediction.labels)
        if isinstance(prediction, PanopticPrediction):
            num_things = len(self.model.dataset_meta['thing_classes'])
            return dict(
                panoptic_seg=prediction.ids,
                segments_info=prediction.segments_info(num_things),
            )
        return {k: v for k, v in vars(prediction).items() if v is not None}

    def _init_model(self, cfg: Config, weights: str, device: str) -> nn.Module:  # type: ignore
        return init_model(cfg, weights, device)

    def _init_pipeline(self, cfg: Config) -> Compose:  # type: ignore[override]
        return image_pipeline(cfg)

    def _init_collate(self, cfg: Config) -> Callable:  # type: ignore[override]
        return pseudo_collate

    def _init_visualizer(self, cfg: Config) -> Visualizer:  # type: ignore[override]
        # It only draws; ResultWriter writes.
        cfg.visualizer = dict(visualizer_of(cfg), vis_backends=None)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            visualizer = super()._init_visualizer(cfg)
        visualizer.dataset_meta = self.model.dataset_meta
        return visualizer
