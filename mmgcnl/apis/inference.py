"""Inference for people who only want results."""

from __future__ import annotations

import copy
import glob
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.fileio import dump
from mmengine.infer import BaseInferencer
from mmengine.registry import init_default_scope
from mmengine.structures import BaseDataElement, PixelData
from mmengine.utils import track_iter_progress
from mmengine.visualization import Visualizer
from torch import nn

from .model import image_pipeline, init_model

Image = str | np.ndarray
SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.ppm', '.pgm')


class Inferencer(BaseInferencer):
    """Segments images: semantic, instance or panoptic, whichever the model's config is.

    ::

        inferencer = Inferencer('config.py', 'weights.pth')
        inferencer('a.jpg')['predictions'][0]
        inferencer(['folder', '*.png'], out_dir='results')

    It follows mmengine's BaseInferencer, uses mmdet's and mmseg's loaders and visualizers,
    and takes the place of their inferencers, which stop at the first image that they
    cannot read, need panopticapi for panoptic segmentation, keep all label maps in
    memory (mmseg) and load a checkpoint that does not fit.

    Args:
        model: The config, or its path.
        weights: Path or URL of the checkpoint.
        device: Default: the GPU when there is one.
        show_progress: Whether to show a progress bar.

    Raises:
        FileNotFoundError, ValueError: As :func:`init_model`.
    """

    preprocess_kwargs: set[str] = set()
    forward_kwargs: set[str] = set()
    visualize_kwargs = {'pred_score_thr'}
    postprocess_kwargs: set[str] = set()

    def __init__(
        self,
        model: str | Path | Config,
        weights: str,
        device: str | None = None,
        show_progress: bool = True,
    ) -> None:
        cfg = model if isinstance(model, Config) else Config.fromfile(model)
        super().__init__(
            cfg, weights, device, cfg.get('default_scope'), show_progress=show_progress
        )

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
            inputs: Paths of images or folders, globs, arrays (H, W, 3) in BGR, or a
                sequence of these.
            return_datasamples: Give the libraries' data samples instead of dicts.
            batch_size: Images at a time.
            return_vis: Also give the overlays.
            out_dir: Folder that gets what :meth:`save` writes. Default: nothing is
                written.
            pred_score_thr: Instances with a lower score are not drawn. They are among
                the predictions.

        Returns:
            ``predictions``: a dict (see :meth:`postprocess`) or data sample per image
            that could be read; with ``out_dir`` the path of a file takes the place of
            a map. ``visualization``: the overlays (H, W, 3) in RGB. ``failed``: by its
            name, why an image could not be read.

        Raises:
            FileNotFoundError: A path, folder or glob has no image.
            ValueError: Two images would be written to the same file.
        """
        images = self.find_images(inputs)
        names = [
            f'{i:08d}' if isinstance(x, np.ndarray) else x for i, x in enumerate(images)
        ]
        if out_dir:
            _check_distinct(names)
        init_default_scope(self.scope)
        results: dict[str, Any] = dict(predictions=[], visualization=[], failed={})
        written = []
        for chunk in self._progress(list(zip(names, images)), batch_size):
            batch = []
            for name, image in chunk:
                try:
                    batch.append((name, image, self.pipeline(image)))
                except Exception as error:  # whatever a decoder raises
                    results['failed'][name] = f'{type(error).__name__}: {error}'
            if not batch:
                continue
            preds = self.forward(self.collate_fn([data for _, _, data in batch]))
            for (name, image, _), pred in zip(batch, preds):
                pred = pred.cpu()
                result: Any = self.postprocess([pred], [])['predictions'][0]
                drawn: Any = None
                if return_vis or out_dir:
                    (drawn,) = self.visualize(
                        [image], [pred], pred_score_thr=pred_score_thr
                    )
                if return_vis:
                    results['visualization'].append(drawn)
                if out_dir:
                    result = self._save_image(Path(out_dir), name, result, drawn)
                    written.append((name, pred.ori_shape, result))
                results['predictions'].append(pred if return_datasamples else result)
        if written:
            self._save_json(Path(out_dir), written)
        return results

    def _progress(
        self, items: list[tuple[str, Image]], batch_size: int
    ) -> Iterator[list[tuple[str, Image]]]:
        chunks = [items[i : i + batch_size] for i in range(0, len(items), batch_size)]
        yield from track_iter_progress(chunks) if self.show_progress else chunks
        if self.show_progress:
            print()

    def visualize(
        self,
        inputs: Sequence[Image],
        preds: Sequence[BaseDataElement],
        pred_score_thr: float = 0.3,
        with_labels: bool = False,
        **kwargs: Any,
    ) -> list[np.ndarray]:
        """Draw predictions over their images with the library's visualizer.

        Args:
            inputs: Paths, or arrays in BGR.
            preds: Data samples.
            pred_score_thr: Instances with a lower score are not drawn.
            with_labels: Semantic segmentation: write the names of the classes too.

        Returns:
            RGB (H, W, 3), uint8.
        """
        options = dict(draw_gt=False, **kwargs)
        if self.scope == 'mmseg':
            options['with_labels'] = with_labels
        else:
            options['pred_score_thr'] = pred_score_thr
        drawn = []
        for image, pred in zip(inputs, preds):
            pixels = mmcv.imread(image)[..., ::-1].copy()
            segments = pred.get('pred_panoptic_seg')
            if segments is None or self._segment_ids(segments).any():
                self.visualizer.add_datasample('', pixels, pred, **options)
                pixels = self.visualizer.get_image()
            drawn.append(pixels)
        return drawn

    def draw_truth(self, image: Image, truth: BaseDataElement) -> np.ndarray:
        """Draw ground truth as :meth:`visualize` draws predictions.

        Args:
            image: A path, or an array in BGR.
            truth: A data sample with the ground truth at the image's size.

        Returns:
            RGB (H, W, 3), uint8.
        """
        truth = copy.deepcopy(truth)
        if self.scope == 'mmseg':
            truth.pred_sem_seg = truth.gt_sem_seg
        elif 'gt_sem_seg' in truth:
            from mmdet.evaluation import INSTANCE_OFFSET

            ids = np.asarray(truth.gt_sem_seg.sem_seg[0]).astype(np.int64)
            ids[ids == 255] = len(self.model.dataset_meta['classes'])
            instances = truth.gt_instances
            for i, mask in enumerate(instances.masks.to_ndarray().astype(bool), 1):
                ids[mask] = int(instances.labels[i - 1]) + i * INSTANCE_OFFSET
            truth.pred_panoptic_seg = PixelData(sem_seg=torch.from_numpy(ids)[None])
        else:
            boxes = truth.gt_instances.bboxes
            truth.gt_instances.bboxes = getattr(boxes, 'tensor', boxes)
            pixels = mmcv.imread(image)[..., ::-1].copy()
            self.visualizer.add_datasample('', pixels, truth, draw_pred=False)
            return self.visualizer.get_image()
        return self.visualize([image], [truth])[0]

    def legend(self, *samples: BaseDataElement) -> list[tuple[str, Any]]:
        """Names and RGB colors of the classes of semantic predictions or truths.

        Of detectors, whose pictures have the names in them: none.
        """
        if self.scope != 'mmseg':
            return []
        labels: set[int] = set()
        for sample in samples:
            for key in {'pred_sem_seg', 'gt_sem_seg'} & set(sample.keys()):
                labels |= set(np.unique(sample.get(key).data).tolist())
        meta = self.visualizer.dataset_meta
        named = zip(meta['classes'], meta['palette'])
        return [entry for i, entry in enumerate(named) if i in labels]

    def postprocess(
        self, preds: Sequence[BaseDataElement], visualization: list, **kwargs: Any
    ) -> dict[str, Any]:
        """Data samples to dicts.

        Args:
            preds: Data samples.
            visualization: What :meth:`visualize` gave.

        Returns:
            ``predictions``: dicts, with ``sem_seg``, the class of each pixel (H, W); or
            with ``labels``, ``scores``, ``bboxes`` (x1, y1, x2, y2) and ``masks``
            (COCO's compressed run lengths) of instances; or with ``panoptic_seg``, the
            segment of each pixel, 0 being none, and ``segments_info`` as COCO has it,
            except that category_id is the number of the class, from 0.
            ``visualization``: as given.
        """
        return dict(
            predictions=[self._to_dict(pred) for pred in preds], visualization=visualization
        )

    def _to_dict(self, pred: BaseDataElement) -> dict[str, Any]:
        if 'pred_panoptic_seg' in pred:
            from mmdet.evaluation import INSTANCE_OFFSET

            segments = self._segment_ids(pred.pred_panoptic_seg)
            ids = np.unique(segments[segments > 0]).tolist()
            things = len(self.model.dataset_meta['thing_classes'])
            panoptic = np.zeros_like(segments)
            info = []
            for number, segment in enumerate(ids, 1):
                panoptic[segments == segment] = number
                label = (segment - 1) % INSTANCE_OFFSET
                info.append(
                    dict(
                        id=number,
                        category_id=label,
                        isthing=int(label < things),
                        area=int((segments == segment).sum()),
                    )
                )
            return dict(panoptic_seg=panoptic, segments_info=info)
        if 'pred_sem_seg' in pred:
            return dict(sem_seg=pred.pred_sem_seg.data[0].numpy())
        instances = pred.pred_instances
        result = dict(
            labels=instances.labels.tolist(),
            scores=instances.scores.tolist(),
            bboxes=instances.bboxes.tolist(),
        )
        if 'masks' in instances:
            from mmdet.structures.mask import encode_mask_results

            result['masks'] = [
                dict(mask, counts=mask['counts'].decode())
                for mask in encode_mask_results(instances.masks)
            ]
        return result

    def _segment_ids(self, segments: BaseDataElement) -> np.ndarray:
        """(H, W): one more than mmdet's id of each pixel's segment, 0 for none."""
        from mmdet.evaluation import INSTANCE_OFFSET

        ids = np.asarray(segments.sem_seg[0]).astype(np.int32)
        void = ids % INSTANCE_OFFSET == len(self.model.dataset_meta['classes'])
        return np.where(void, 0, ids + 1)

    def _save_image(
        self, out_dir: Path, name: str, result: dict[str, Any], drawn: np.ndarray
    ) -> dict[str, Any]:
        """Write an image's overlay and maps; its result with paths for the maps."""
        file = f'{Path(name).stem}.png'
        mmcv.imwrite(drawn[..., ::-1], str(out_dir / 'overlays' / file))
        result = dict(result)
        for key, folder in (('sem_seg', 'labels'), ('panoptic_seg', 'panoptic')):
            if key in result:
                pixels = result.pop(key)
                if key == 'panoptic_seg':
                    from mmgcnl.datasets.panoptic import id2rgb

                    pixels = id2rgb(pixels)[..., ::-1]
                path = str(out_dir / folder / file)
                deep = pixels.ndim == 2 and pixels.max() > 255
                mmcv.imwrite(pixels.astype(np.uint16 if deep else np.uint8), path)
                result[f'{key}_path'] = path
        return result

    def _save_json(
        self, out_dir: Path, written: list[tuple[str, tuple[int, int], dict]]
    ) -> None:
        """COCO's JSON of all images: instances.json or panoptic.json."""
        meta = self.model.dataset_meta
        things = meta.get('thing_classes', meta['classes'])
        images: list[dict] = []
        annotations: list[dict] = []
        kind = None
        for image_id, (name, shape, result) in enumerate(written, 1):
            file = Path(name).name
            images.append(
                dict(id=image_id, file_name=file, height=shape[0], width=shape[1])
            )
            if 'segments_info' in result:
                kind = 'panoptic'
                segments = [
                    dict(segment, category_id=segment['category_id'] + 1)
                    for segment in result['segments_info']
                ]
                annotations.append(
                    dict(
                        image_id=image_id,
                        file_name=Path(result['panoptic_seg_path']).name,
                        segments_info=segments,
                    )
                )
            elif 'labels' in result:
                kind = 'instances'
                annotations += _coco_instances(result, image_id, len(annotations))
        categories = [
            dict(id=i, name=name, isthing=int(name in things))
            for i, name in enumerate(meta['classes'], 1)
        ]
        if kind is not None:
            content = dict(images=images, annotations=annotations, categories=categories)
            dump(content, str(out_dir / f'{kind}.json'))

    def find_images(self, inputs: Image | Sequence[Image]) -> list[Image]:
        """Each image that is meant: the files of folders and globs, sorted.

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
                found = [p for p in path.iterdir() if p.suffix.lower() in SUFFIXES]
            else:
                found = [Path(p) for p in glob.glob(str(item), recursive=True)]
                found = [p for p in found if p.is_file()]
            if not found:
                raise FileNotFoundError(f'no image: {item}')
            images += sorted(map(str, found))
        return images

    def _init_model(self, cfg: Config, weights: str, device: str) -> nn.Module:  # type: ignore
        return init_model(cfg, weights, device)

    def _init_pipeline(self, cfg: Config) -> Compose:  # type: ignore[override]
        return image_pipeline(cfg)

    def _init_collate(self, cfg: Config) -> Callable:  # type: ignore[override]
        return pseudo_collate

    def _init_visualizer(self, cfg: Config) -> Visualizer:  # type: ignore[override]
        cfg.visualizer.vis_backends = None  # draw, and write nothing by itself
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            visualizer = super()._init_visualizer(cfg)
        visualizer.dataset_meta = self.model.dataset_meta
        return visualizer


def _check_distinct(names: list[str]) -> None:
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(Path(name).stem, name)
        if other != name:
            raise ValueError(
                f'{other} and {name} would be written to the same file: '
                'take them in two runs with an out dir each'
            )


def _coco_instances(result: dict[str, Any], image_id: int, before: int) -> list[dict]:
    from pycocotools import mask as coco_mask

    annotations = []
    for i, (label, score, box) in enumerate(
        zip(result['labels'], result['scores'], result['bboxes'])
    ):
        x1, y1, x2, y2 = box
        annotation = dict(
            id=before + i + 1,
            image_id=image_id,
            category_id=label + 1,
            score=score,
            bbox=[x1, y1, x2 - x1, y2 - y1],
            area=(x2 - x1) * (y2 - y1),
            iscrowd=0,
        )
        if 'masks' in result:
            annotation['segmentation'] = result['masks'][i]
            annotation['area'] = int(coco_mask.area(result['masks'][i]))
        annotations.append(annotation)
    return annotations
