"""What is looked at: images, a query, a change, one model or two. It is saved as JSON.

Shape shorthand: n heads, M key positions, H, W: pixels.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mmengine.fileio import dump, load
from mmengine.structures import BaseDataElement

from mmgcnl.apis import Inferencer
from mmgcnl.utils.cli import read_config

from ..ablation import ablations_of
from ..attention import Point, choose_block, head_maps
from ..figures import Query, draw_attention
from ..samples import Split, label_map
from .differences import differences, label_at
from .model import Change, ExploredModel, Progress

#: Instances with a lower score are neither drawn nor compared.
SCORE_THR = 0.3
#: Images whose mean context 'context mean' takes, at most.
CONTEXTS = 32


@dataclass(frozen=True)
class ModelSource:
    """Where a model comes from.

    Attributes:
        config: Path of its config.
        checkpoint: Path or URL of its checkpoint.
        block: Name of its block; '' for the only one, or the first.
        name: What it is called; '' for the name of its config.
    """

    config: str
    checkpoint: str
    block: str = ''
    name: str = ''


@dataclass(frozen=True)
class View:
    """What one looks at.

    Attributes:
        models: One model, or two to compare.
        image: Path of the image.
        point: x and y of the query, in pixels.
        ablation: A key of :data:`mmgcnl.analysis.ABLATIONS`; None for none.
        others: Images that an ablation of the context takes contexts from.
        split: 'val' or 'test' if the image is of this split of the first config.
        scale: The attention that gets the brightest color, in multiples of uniform
            attention; None for one that suits the query.
        cfg_options: Settings that override those of the configs.
    """

    models: tuple[ModelSource, ...]
    image: str
    point: Point
    ablation: str | None = None
    others: tuple[str, ...] = ()
    split: str | None = None
    scale: float | None = None
    cfg_options: dict[str, Any] | None = None


class Look(NamedTuple):
    """A query's attention in one model, as it is or changed.

    Attributes:
        title: The model, and what is changed.
        model: The model.
        key: The number of the model, image, block and change.
        weights: (n, M), attention in multiples of uniform attention.
        cells: (H, W), the key under each pixel.
        label: What the model predicts at the query.
        prediction: Its data sample.
        difference: How the prediction differs from that of the model as it is.
        changed: Where the predicted class differs from it, or objects are lost or new
            (H, W); None if it is the model as it is.
    """

    title: str
    model: ExploredModel
    key: tuple[int, str, str, Change]
    weights: np.ndarray
    cells: np.ndarray
    label: str
    prediction: BaseDataElement
    difference: str = ''
    changed: np.ndarray | None = None

    @property
    def top_tenth(self) -> tuple[float, float]:
        """Share of the attention, mean over heads, on the tenth of the keys with most.

        Also the share of these keys: a tenth of few keys is rounded up.
        """
        mean = np.sort(self.weights.mean(0))[::-1]
        number = -(-len(mean) // 10)
        return float(mean[:number].sum() / max(mean.sum(), 1e-12)), number / len(mean)


class Explorer:
    """Models, and the images that they are looked at with.

    Args:
        sources: Of one model or two.
        images: Paths. Default: those of the split.
        split: 'val' or 'test', whose ground truth is shown; None for none.
        cfg_options: Override settings of all configs.
        device: Such as 'cpu' or 'cuda:1'.
        distances: For each model, the report of
            :func:`mmgcnl.analysis.measure_distances` on its data set, or None.

    Raises:
        OSError: A file is missing.
        RuntimeError: The data has a fault.
        ValueError: A model does not fit its checkpoint, or has no such block.
    """

    def __init__(
        self,
        sources: Sequence[ModelSource],
        images: Sequence[str] = (),
        split: str | None = None,
        cfg_options: dict[str, Any] | None = None,
        device: str | None = None,
        distances: Sequence[dict[str, Any] | None] = (),
    ) -> None:
        self.cfg_options = cfg_options or {}
        self.models: list[ExploredModel] = []
        self.sources: tuple[ModelSource, ...] = ()
        for source in sources:
            cfg = read_config(source.config, self.cfg_options)
            name = source.name or Path(source.config).stem
            inferencer = Inferencer(cfg, source.checkpoint, device, show_progress=False)
            model = ExploredModel(name, inferencer)
            block = source.block or next(iter(model.blocks))
            block, _ = choose_block(inferencer.model, block, name)
            self.models.append(model)
            self.sources += (replace(source, block=block, name=name),)
        self.split_name = split
        self._numbers: dict[str, int] = {}
        if split:
            self._split = Split(self.models[0].inferencer.cfg, split)
            get_info = self._split.dataset.get_data_info
            paths = [get_info(i)['img_path'] for i in range(len(self._split))]
            # A saved view has absolute paths, a config may have relative ones.
            self._numbers = {os.path.abspath(path): i for i, path in enumerate(paths)}
            images = images or paths
        self.images = list(images)
        self.distances = list(distances) + [None] * (len(self.models) - len(distances))
        for model, report in zip(self.models, self.distances):
            _check_distances(report, model)
        # As large as what ExploredModel keeps.
        self.picture = lru_cache(8)(self._picture)
        self.truth = lru_cache(8)(self._truth)
        self.draw_truth = lru_cache(8)(self._draw_truth)
        self.cells = lru_cache(16)(self._cells)
        self.difference = lru_cache(16)(self._difference)
        self.draw_prediction = lru_cache(16)(self._draw_prediction)

    def _picture(self, image: str) -> np.ndarray:
        return self.models[0].inferencer.overlays.reader.picture(image)

    def _truth(self, image: str) -> BaseDataElement | None:
        number = self._numbers.get(os.path.abspath(image))
        if number is None:
            return None
        truth = self._split[number].truth
        return None if truth is None or label_map(truth) is None else truth

    def _cells(self, number: int, image: str, block: str) -> np.ndarray:
        model = self.models[number]
        return model.scene(image).cells(block, model.blocks[block])

    def view(self, image: str, point: Point, **options: Any) -> View:
        """Make a view of these models."""
        known = self.split_name if os.path.abspath(image) in self._numbers else None
        options = (
            dict(models=self.sources, split=known, cfg_options=self.cfg_options) | options
        )
        return View(image=image, point=point, **options)

    def others(self, ablation: str | None, other: str) -> tuple[str, ...]:
        """Choose the images whose contexts an ablation takes, ``other`` or the first."""
        if ablation == 'context mean':
            return tuple(self.images[:CONTEXTS])
        return (other,) if ablation == 'context swapped' else ()

    def label(self, image: str, point: Point) -> str | None:
        """Name the true class at a point; None if it is not known."""
        truth = self.truth(image)
        if truth is None:
            return None
        classes = self.models[0].classes
        labels = label_map(truth)
        assert labels is not None
        label = int(labels[int(round(point[1])), int(round(point[0]))])
        if 0 <= label < len(classes):
            return classes[label]
        return 'not labelled' if 'gt_sem_seg' in truth else 'no object'

    def looks(self, view: View, progress: Progress = lambda *_: None) -> list[Look]:
        """Compute what a view shows: each model as it is and, if it allows that, changed.

        Raises:
            ValueError: A model fails on the image, or the point is outside of it.
        """
        looks = []
        for number, (model, source) in enumerate(zip(self.models, view.models)):
            changes = [Change()]
            if view.ablation in ablations_of(model.blocks[source.block]):
                changes.append(Change(view.ablation, view.others))
            for change in changes:
                key = (number, view.image, source.block, change)
                seen = model.see(view.image, source.block, change, progress)
                weights = seen.attention(view.point)
                title = model.name
                difference: tuple[str, Any] = ('', None)
                if change.ablation:
                    title += f', {change.ablation}'
                    difference = self.difference(*key)
                looks.append(
                    Look(
                        title,
                        model,
                        key,
                        weights * weights.shape[1],
                        self.cells(number, view.image, source.block),
                        label_at(seen.decoded, view.point, model.classes, SCORE_THR),
                        seen.prediction,
                        *difference,
                    )
                )
        return looks

    def _difference(
        self, number: int, image: str, block: str, change: Change
    ) -> tuple[str, np.ndarray]:
        model = self.models[number]
        before, after = (model.see(image, block, c).decoded for c in (Change(), change))
        size = self.picture(image).shape[:2]
        return differences(before, after, model.classes, SCORE_THR, size)

    def _draw_prediction(
        self, number: int, image: str, block: str, change: Change
    ) -> np.ndarray:
        """Draw a prediction over its image, (H, W, 3), RGB, uint8."""
        model = self.models[number]
        prediction = model.see(image, block, change).prediction
        (drawn,) = model.inferencer.visualize([image], [prediction], SCORE_THR)
        return drawn

    def _draw_truth(self, image: str) -> np.ndarray | None:
        """Draw the ground truth over its image, (H, W, 3), RGB, uint8; None without one."""
        truth = self.truth(image)
        if truth is None:
            return None
        return self.models[0].inferencer.draw_truth(image, truth)


def _check_distances(report: Any, model: ExploredModel) -> None:
    if report is None:
        return
    blocks = report.get('blocks') if isinstance(report, dict) else None
    if not isinstance(blocks, dict) or not set(blocks) & set(model.blocks):
        raise ValueError(
            f'--distances: give what cosine_distance.py --json wrote for {model.name}; '
            f'this file has no distances of its blocks ({", ".join(model.blocks)})'
        )


def shared_scale(looks: Sequence[Look]) -> float:
    """Choose the scale of all maps of a view: a power of two that few values exceed."""
    values = np.concatenate([look.weights.ravel() for look in looks])
    return float(2 ** max(1, np.ceil(np.log2(max(np.percentile(values, 99.5), 1e-6)))))


def draw_view(explorer: Explorer, view: View, path: str | Path) -> None:
    """Draw a view as a PNG file, see :func:`mmgcnl.analysis.draw_attention`.

    Raises:
        ValueError: A model fails on the image, or the point is outside of it.
    """
    looks = explorer.looks(view)
    queries = [
        Query(view.point, head_maps(look.weights[:, look.cells]), look.title)
        for look in looks
    ]
    panels = {look.title: explorer.draw_prediction(*look.key) for look in looks}
    samples = [look.prediction for look in looks]
    truth, drawn = explorer.truth(view.image), explorer.draw_truth(view.image)
    if truth is not None and drawn is not None:
        panels = {'ground truth': drawn, **panels}
        samples.append(truth)
    legend = explorer.models[0].inferencer.legend(*samples)
    picture = explorer.picture(view.image)
    scale = view.scale or shared_scale(looks)
    draw_attention(picture, queries, path, panels, legend, scale)


def write_view(view: View, path: str | Path) -> None:
    """Write a view as JSON, for :func:`read_view`."""
    dump(asdict(view), path, file_format='json', indent=2)


def read_view(path: str | Path) -> View:
    """Read a view.

    A relative path of the image is taken from the folder of the view.

    Raises:
        OSError: There is no such file.
        ValueError: It holds no view.
    """
    try:
        data = load(path, file_format='json')
        models = tuple(ModelSource(**source) for source in data.pop('models'))
        data['point'] = tuple(data['point'])
        data['others'] = tuple(data.get('others', ()))
        data['image'] = str(Path(path).parent / data['image'])
        return View(models=models, **data)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f'{path} is not a view that the explorer has saved: {type(error).__name__}: '
            f'{error}'
        ) from error
