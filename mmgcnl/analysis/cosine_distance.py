"""How much a block's features and attention differ between positions (Tables 3, 4).

Shape shorthand: B images, n heads, N query positions, M key positions, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.dataset import pseudo_collate
from mmengine.dist import all_gather_object, get_dist_info, get_rank
from mmengine.model import BaseModel
from mmengine.utils import ProgressBar
from torch import Tensor, nn
from torch.utils.data import DataLoader

from .blocks import Grid, block_type, find_blocks, grids, iter_attention
from .geometry import PixelMap
from .samples import Split, label_map

#: Classes of the cells of a grid, given that grid and its (rows, columns): an array of
#: that size. A class is 0 to K - 1; any other number stands for no class.
Labels = Callable[[Grid, tuple[int, int]], np.ndarray]


def measure_distances(
    model: BaseModel,
    pipeline: Callable[[dict], dict],
    split: Split,
    num_workers: int = 0,
) -> dict[str, Any]:
    """Measure every block of a model over the images of a split.

    In a distributed run, each process takes a part of the images and returns the result
    over all of them.

    Args:
        model: From :func:`mmgcnl.apis.init_model`.
        pipeline: Its test pipeline, from :func:`mmgcnl.apis.image_pipeline`.
        split: The images, with ground truth or without.
        num_workers: Processes that load the images while the model runs.

    Returns:
        A dict of ``num_images`` and ``blocks``. The latter has for each block its
        ``type``; ``num_maps``, the number of maps seen; ``input``, ``output`` and
        ``attention``, each with the mean and the standard deviation of its distance over
        the maps (None for the output of a block that adds nothing); and ``classes``: how
        the attention of the queries of each class is distributed over the classes.
        ``classes`` needs ground truth and a model that is not tested in ``slide`` mode.

    Raises:
        ValueError: The model has no non-local block.
    """
    blocks = find_blocks(model)
    classes = model.dataset_meta['classes']
    # In slide mode, a block does not know where in the image its window lies.
    whole = model.cfg.model.get('test_cfg', {}).get('mode') != 'slide'
    recorder = DistanceRecorder(blocks, len(classes))
    rank, world_size = get_dist_info()
    loader = DataLoader(
        split,
        batch_size=None,
        sampler=range(rank, len(split), world_size),
        collate_fn=tuple,  # as it is
        num_workers=num_workers,
    )
    bar = ProgressBar(len(loader)) if rank == 0 else None
    map_of = cache(partial(PixelMap.of_pipeline, pipeline))
    with recorder, torch.no_grad():
        for _, sample, truth in loader:
            labels = label_map(truth)
            data = model.data_preprocessor(pseudo_collate([sample]), False)
            recorder.labels = None
            if labels is not None and whole:
                pixel_map = map_of(labels.shape, tuple(data['inputs'].shape[2:]))
                recorder.labels = partial(pixel_map.labels_at, labels)
            model(**data, mode='predict')
            if bar is not None:
                bar.update()
    if bar is not None:
        print()
    recorder.gather()
    return dict(
        num_images=len(split),
        blocks={name: _report(recorder, name, classes) for name in blocks},
    )


def _report(recorder: DistanceRecorder, name: str, classes: Sequence[str]) -> dict:
    report: dict[str, Any] = dict(
        type=block_type(recorder.blocks[name]),
        num_maps=len(recorder.images[name]['input']),
    )
    for kind, values in recorder.images[name].items():
        measured = np.array(values)[~np.isnan(values)]
        report[kind] = dict(mean=None, std=None)
        if len(measured):
            report[kind] = dict(mean=float(measured.mean()), std=float(measured.std()))
    heads = torch.stack(recorder.heads[name])
    report['attention']['heads'] = heads.mean(0).tolist()
    if name in recorder.queries:
        queries = recorder.queries[name]
        seen = queries.nonzero()[:, 0].tolist()
        report['classes'] = {
            classes[k]: dict(
                queries=int(queries[k]),
                attention=_by_class(recorder.shares[name][k] / queries[k], classes),
                uniform=_by_class(recorder.uniform[name][k] / queries[k], classes),
            )
            for k in seen
        }
    return report


def _by_class(shares: Tensor, classes: Sequence[str]) -> dict[str, float]:
    return {name: share.item() for name, share in zip([*classes, 'no class'], shares)}


def mean_cosine_distance(vectors: Tensor) -> Tensor:
    """Mean of (1 - cos) / 2 over all N x N pairs of vectors, in O(N d).

    The paper's avg_dist (supplement, footnote 1). The mean of all cosines is the squared
    length of the mean unit vector. A zero vector counts as orthogonal to every other.

    Args:
        vectors: (..., N, d).

    Returns:
        (...) in float64, between 0 (all alike) and 0.5 (nothing in common on average).
    """
    return _distance(_unit_sum(vectors), vectors.shape[-2])


def _unit_sum(vectors: Tensor) -> Tensor:
    return F.normalize(vectors.double(), dim=-1).sum(dim=-2)


def _distance(unit_sum: Tensor, number: int) -> Tensor:
    return (1 - (unit_sum / number).square().sum(dim=-1)) / 2


class DistanceRecorder:
    """Measures blocks on every forward pass while it is attached to them.

    Used as a context manager::

        with DistanceRecorder(find_blocks(model)) as recorder:
            model.test_step(data)
        recorder.mean(name)  # {'input': ..., 'output': ..., 'attention': ...}

    'output' is what a block adds to its input; where that is zero throughout, as in a
    block that starts as the identity, its distance is NaN. The paper does not say how it
    treats heads: 'attention' is the mean of their distances, and :attr:`heads` has each.

    With :attr:`labels` set to the classes of the image before a forward pass of one
    image, it also sums up which class each query's attention falls on, mean over heads.

    Args:
        blocks: From :func:`find_blocks`; their model must be in eval mode.
        num_classes: K.

    Attributes:
        images: For each block and of 'input', 'output' and 'attention': the distance in
            each map seen.
        heads: For each block: (n,) in each map seen.
        shares: For each block that saw labels: (K, K + 1), the attention of the queries
            of each class on keys of each class, and at last of none, summed over
            queries.
        uniform: The same sums for uniform attention.
        queries: For each block that saw labels: (K,), the number of queries.
    """

    def __init__(self, blocks: dict[str, nn.Module], num_classes: int = 0) -> None:
        self.blocks = blocks
        self.num_classes = num_classes
        self.labels: Labels | None = None
        self.images: dict[str, dict[str, list[float]]] = {
            name: dict(input=[], output=[], attention=[]) for name in blocks
        }
        self.heads: dict[str, list[Tensor]] = {name: [] for name in blocks}
        self.shares: dict[str, Tensor] = {}
        self.uniform: dict[str, Tensor] = {}
        self.queries: dict[str, Tensor] = {}

    def __enter__(self) -> DistanceRecorder:
        self._handles = [
            block.register_forward_hook(partial(self._record, name))
            for name, block in self.blocks.items()
        ]
        return self

    def __exit__(self, *error: Any) -> None:
        for handle in self._handles:
            handle.remove()

    def mean(self, name: str) -> dict[str, float]:
        """Each distance of a block averaged over the maps seen.

        That of the output is NaN if the block added nothing to one of them.
        """
        return {kind: float(np.mean(v)) for kind, v in self.images[name].items()}

    def gather(self) -> None:
        """Merge what the other processes of a distributed run have recorded."""
        own = dict(vars(self), labels=None, blocks=None, _handles=None)
        for rank, other in enumerate(all_gather_object(own)):
            if rank == get_rank():
                continue
            for name in self.blocks:
                for kind, values in other['images'][name].items():
                    self.images[name][kind] += values
                self.heads[name] += other['heads'][name]
            for kind in ('shares', 'uniform', 'queries'):
                store = getattr(self, kind)
                for name, value in other[kind].items():
                    store[name] = store.get(name, 0) + value

    @torch.no_grad()
    def _record(
        self, name: str, block: nn.Module, args: tuple[Tensor], output: Tensor
    ) -> None:
        (x,) = args
        images = self.images[name]
        for kind, features in (('input', x), ('output', output - x)):
            vectors = features.flatten(2).transpose(1, 2)
            distances = mean_cosine_distance(vectors)
            # A block that starts as the identity adds only zeros, which have no distance.
            distances[~vectors.flatten(1).any(dim=1)] = torch.nan
            images[kind] += distances.tolist()

        classes = self._classes(name, x)
        unit_sum: Tensor | float = 0
        number = 0
        for weights in iter_attention(block, x):
            unit_sum = unit_sum + _unit_sum(weights)
            if classes is not None:
                query_classes, keys = classes
                part = slice(number, number + weights.shape[2])
                self._add_shares(name, query_classes[part], weights[0].mean(0), keys)
            number += weights.shape[2]
        assert isinstance(unit_sum, Tensor)
        heads = _distance(unit_sum, number)
        self.heads[name] += heads.cpu()
        images['attention'] += heads.mean(dim=1).tolist()

    def _classes(self, name: str, x: Tensor) -> tuple[Tensor, Tensor] | None:
        """Class of each query (N,) and, one-hot, of each key (M, K + 1)."""
        if self.labels is None:
            return None
        size = (x.shape[2], x.shape[3])
        classes = []
        for grid in grids(self.blocks[name], size):
            labels = torch.from_numpy(self.labels(grid, size)).to(x.device).long()
            none = (labels < 0) | (labels >= self.num_classes)
            classes.append(labels.masked_fill(none, self.num_classes).flatten())
        return classes[0], F.one_hot(classes[1], self.num_classes + 1).double()

    def _add_shares(
        self, name: str, query_classes: Tensor, weights: Tensor, keys: Tensor
    ) -> None:
        queries = F.one_hot(query_classes, self.num_classes + 1).T[:-1].double()
        shares = queries @ (weights.double() @ keys)
        counts = queries.sum(1)
        uniform = counts[:, None] * keys.mean(0)
        for store, value in (
            (self.shares, shares),
            (self.uniform, uniform),
            (self.queries, counts),
        ):
            store[name] = store.get(name, 0) + value.cpu()
