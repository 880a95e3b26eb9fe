"""A model whose attention is looked at: image by image, as it is and with a prior changed.

Shape shorthand: n heads, M key positions, d channels of a head, H, W pixels.
"""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from mmengine.structures import BaseDataElement
from torch import Tensor

from mmgcnl.apis import Inferencer
from mmgcnl.layers import GCNonLocal2d
from mmgcnl.structures import Prediction, decode_prediction

from ..ablation import Contexts, ablated, ablations_of
from ..attention import STEMS, Point, Scene, observe, whole_image
from ..blocks import find_blocks
from ..cosine_distance import DistanceRecorder

#: Images whose features are kept.
SCENES = 4

Progress = Callable[[int, int], Any]


class Change(NamedTuple):
    """What is changed in a block.

    Attributes:
        ablation: One of :func:`mmgcnl.analysis.ablations_of`; None for nothing.
        others: Images that the context is taken from: its mean over them for 'context
            mean', that of the first for 'context swapped'.
    """

    ablation: str | None = None
    others: tuple[str, ...] = ()


class Seen(NamedTuple):
    """A model's view of an image under a change.

    Attributes:
        attention: A function from a point of the image to the attention (n, M) of its
            query.
        prediction: The data sample.
        decoded: The prediction that it holds.
    """

    attention: Callable[[Point], np.ndarray]
    prediction: BaseDataElement
    decoded: Prediction


class ExploredModel:
    """Computes what one image and one change need once, and then query by query.

    Args:
        name: The model's name on the page.
        inferencer: The model.

    Raises:
        ValueError: It has no non-local block.
    """

    def __init__(self, name: str, inferencer: Inferencer) -> None:
        self.name = name
        self.inferencer = inferencer
        self.blocks = find_blocks(inferencer.model)
        self.classes: Sequence[str] = inferencer.model.dataset_meta['classes']
        # Distances are measured while queries are answered. Both read what is kept here.
        self.lock = threading.RLock()
        self._scenes: OrderedDict[str, Scene] = OrderedDict()
        self._seen: OrderedDict[tuple[str, str, Change], Seen] = OrderedDict()
        self._contexts: dict[tuple[str, str], Tensor] = {}
        self._distances: dict[tuple[str, str], dict[str, float]] = {}

    def scene(self, image: str) -> Scene:
        """Run the model on an image, unless it is one of the last few.

        Raises:
            ValueError: The image does not decode, or the model fails on it.
        """
        with self.lock:
            if image not in self._scenes:
                self._scenes[image] = self._observe(image)
            return _recent(self._scenes, image, SCENES)

    def _observe(self, image: str) -> Scene:
        try:
            return observe(self.inferencer.model, self.inferencer.pipeline, image)
        except Exception as error:  # decoders and models raise all kinds of errors
            reason = str(error).replace(image, Path(image).name)
            raise ValueError(
                f'{self.name} fails on {Path(image).name}: {reason}'
            ) from error

    def see(
        self, image: str, block: str, change: Change, progress: Progress = lambda *_: None
    ) -> Seen:
        """Prepare the attention of a block, and predict, under a change of the block.

        Args:
            image: Path of the image.
            block: Name of the block.
            change: The change.
            progress: Called with the number of images done and of all, where the contexts
                of many are needed.

        Raises:
            ValueError: The block does not allow the change, or an image fails.
        """
        key = (image, block, change)
        with self.lock:
            if key not in self._seen:
                self._seen[key] = self._see(image, block, change, progress)
            return _recent(self._seen, key, 2 * SCENES)

    def _see(self, image: str, name: str, change: Change, progress: Progress) -> Seen:
        scene, block = self.scene(image), self.blocks[name]
        if change.ablation is None:
            return self._seen_as(scene.attention(name, block), scene.prediction)
        contexts = Contexts()
        if change.ablation.startswith('context'):
            contexts.images = self._contexts_of(name, change.others, progress)
            if change.ablation == 'context swapped':  # the second takes the first's place
                contexts.images = [contexts.images[0]] * 2
        with ablated(block, change.ablation, contexts):
            attention = scene.attention(name, block)
        with ablated(block, change.ablation, contexts):
            prediction = self._predict_from(scene, name)
        return self._seen_as(attention, prediction)

    def _seen_as(
        self, attention: Callable[[Point], np.ndarray], prediction: BaseDataElement
    ) -> Seen:
        decoded = decode_prediction(prediction, len(self.classes))
        return Seen(attention, prediction, decoded)

    def _contexts_of(
        self, name: str, images: Sequence[str], progress: Progress
    ) -> list[Tensor]:
        block = self.blocks[name]
        assert isinstance(block, GCNonLocal2d) and block.context is not None
        for done, image in enumerate(images):
            if (image, name) not in self._contexts:
                progress(done, len(images))
                scene = self._scenes.get(image) or self._observe(image)
                with torch.no_grad():
                    context, factor = block.context(scene.inputs[name])
                self._contexts[image, name] = (context * factor)[0].cpu()
        return [self._contexts[image, name] for image in images]

    @torch.no_grad()
    def _predict_from(self, scene: Scene, name: str) -> BaseDataElement:
        """Run the parts of the model behind those that a block cannot change."""
        model = self.inferencer.model
        kept = list(
            takewhile(
                lambda stem: (
                    stem in scene.features and not f'{name}.'.startswith(f'{stem}.')
                ),
                STEMS,
            )
        )
        with ExitStack() as stack:
            for stem in kept:
                features = scene.features[stem]
                module = getattr(model, stem)
                # A copy, because a head may change its input in place.
                forward = lambda *_, f=features: copy.deepcopy(f)  # noqa: E731
                stack.enter_context(patch.object(module, 'forward', forward))
            stack.enter_context(whole_image(model))
            # A copy, because models write their predictions into the batch.
            (prediction,) = model.test_step(copy.deepcopy(scene.batch))
        return prediction.cpu()

    def distances(self, image: str, name: str) -> dict[str, float]:
        """Measure the cosine distances of the block's input, output and attention."""
        if (image, name) not in self._distances:
            with self.lock:  # not while the block is changed
                x, block = self.scene(image).inputs[name], copy.deepcopy(self.blocks[name])
            with DistanceRecorder({name: block}) as recorder, torch.no_grad():
                block(x)
            self._distances[image, name] = recorder.mean(name)
        return self._distances[image, name]

    def changes(self, name: str) -> list[str]:
        """List the ablations that a block allows."""
        return ablations_of(self.blocks[name])


def _recent(cache: OrderedDict, key: Any, size: int) -> Any:
    """Get an entry of a cache and forget the one that was used longest ago."""
    cache.move_to_end(key)
    if len(cache) > size:
        cache.popitem(last=False)
    return cache[key]
