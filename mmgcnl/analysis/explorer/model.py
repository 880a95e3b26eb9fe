"""A model whose attention is looked at: image by image, as it is and with a prior changed.

Shape shorthand: n heads, M key positions, d channels of a head, H, W pixels.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import lru_cache
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

from ..ablation import ablated
from ..attention import Point, Scene, observe, whole_image
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
        self._scene = lru_cache(SCENES)(self._observe)
        self._seen = lru_cache(2 * SCENES)(self._see)
        self._contexts: dict[tuple[str, str], Tensor] = {}
        self.distances = lru_cache(None)(self._measure_distances)

    def scene(self, image: str) -> Scene:
        """Run the model on an image, unless it is one of the last few.

        Raises:
            ValueError: The image does not decode, or the model fails on it.
        """
        with self.lock:
            return self._scene(image)

    def _observe(self, image: str) -> Scene:
        try:
            return observe(self.inferencer.model, self.inferencer.pipeline, image)
        except Exception as error:  # decoders and models raise all kinds of errors
            name = Path(image).name
            reason = str(error).replace(image, name)
            raise ValueError(f'{self.name} fails on {name}: {reason}') from error

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
        with self.lock:
            for done, other in enumerate(change.others):
                if (other, block) not in self._contexts:
                    progress(done, len(change.others))
                    self._contexts[other, block] = self._context(other, block)
            return self._seen(image, block, change)

    def _see(self, image: str, name: str, change: Change) -> Seen:
        scene, block = self.scene(image), self.blocks[name]
        if change.ablation is None:
            attention, prediction = scene.attention(name, block), scene.prediction
        else:
            contexts = [self._contexts[other, name] for other in change.others]
            if change.ablation == 'context swapped':  # the second takes the first's place
                contexts *= 2
            with ablated(block, change.ablation, contexts):
                attention = scene.attention(name, block)
            with ablated(block, change.ablation, contexts):
                prediction = self._predict_from(scene, name)
        decoded = decode_prediction(prediction, len(self.classes))
        return Seen(attention, prediction, decoded)

    @torch.no_grad()
    def _context(self, image: str, name: str) -> Tensor:
        """Compute the context (n, 1, 1, d) of an image, whose scene is not kept."""
        block = self.blocks[name]
        assert isinstance(block, GCNonLocal2d) and block.context is not None
        context, factor = block.context(self._observe(image).inputs[name])
        return (context * factor)[0].cpu()

    @torch.no_grad()
    def _predict_from(self, scene: Scene, name: str) -> BaseDataElement:
        """Run the parts of the model behind those that a block cannot change."""
        model = self.inferencer.model
        with ExitStack() as stack:
            for stem, features in scene.features.items():
                if f'{name}.'.startswith(f'{stem}.'):
                    break
                # A copy, because a head may change its input in place.
                forward = lambda *_, f=features: copy.deepcopy(f)  # noqa: E731
                stack.enter_context(patch.object(getattr(model, stem), 'forward', forward))
            stack.enter_context(whole_image(model))
            # A copy, because models write their predictions into the batch.
            (prediction,) = model.test_step(copy.deepcopy(scene.batch))
        return prediction.cpu()

    def _measure_distances(self, image: str, name: str) -> dict[str, float]:
        """Measure the cosine distances of the block's input, output and attention."""
        with self.lock:  # not while the block is changed
            x, block = self.scene(image).inputs[name], copy.deepcopy(self.blocks[name])
        with DistanceRecorder({name: block}) as recorder, torch.no_grad():
            block(x)
        return recorder.mean(name)
