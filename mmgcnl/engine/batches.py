"""Numbered batches, so that a training can continue in the middle of an epoch."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from mmengine.dataset import InfiniteSampler
from torch.utils.data import DataLoader, get_worker_info


class NumberedBatchSampler:
    """A batch sampler that numbers its batches, and that can start in the middle.

    Worker processes load ahead, so that their random states cannot be saved. Instead, each
    batch seeds the worker with its number. Augmentation therefore does not depend on the
    number of workers either.

    Args:
        batches: The batch sampler to wrap.
        seed: Seed of the training.
        rank: Rank of the process.
    """

    def __init__(self, batches: Any, seed: int, rank: int) -> None:
        self.batches = batches
        self.seed = (seed, rank)
        self.count = 0  # batches so far, over all passes
        self.rest: Iterator[list[int]] | None = None

    def __iter__(self) -> Iterator[list[int]]:
        rest, self.rest = self.rest, None
        for indices in self.batches if rest is None else rest:
            yield _Batch(indices, (*self.seed, self.count))
            self.count += 1

    def __len__(self) -> int:
        return len(self.batches)

    def __getattr__(self, name: str) -> Any:
        if name == 'batches':  # not set yet while an object is copied
            raise AttributeError(name)
        return getattr(self.batches, name)

    def skip(self, number: int) -> int:
        """Skip batches, so that the next pass starts after them.

        The sampler gets the number of each pass, as in mmengine's iteration-based loop.

        Returns:
            The number of passes that ended on the way.
        """
        sampler: Any = getattr(self.batches, 'sampler', None)
        rest, passes = iter(self.batches), 0
        for _ in range(number):
            if next(rest, None) is None:
                passes += 1
                if hasattr(sampler, 'set_epoch'):
                    sampler.set_epoch(passes)
                rest = iter(self.batches)
                next(rest)
        self.rest = rest
        return passes


class _Batch(list):
    """Indices of samples, and the seed for the worker that loads them."""

    def __init__(self, indices: Sequence[int] = (), seed: tuple[int, ...] = ()) -> None:
        super().__init__(indices)
        self.seed = seed


def _get_items(dataset: Any, batch: _Batch) -> list[Any]:
    """Load a batch of ``dataset``; a worker process first takes the batch's seed."""
    if get_worker_info() is not None:
        seeds = np.random.SeedSequence(batch.seed).generate_state(3)
        random.seed(int(seeds[0]))
        np.random.seed(seeds[1])
        torch.manual_seed(int(seeds[2]))
    return [dataset[index] for index in batch]


def number_batches(loader: DataLoader, seed: int, rank: int) -> NumberedBatchSampler:
    """Let a loader, not iterated over yet, use a :class:`NumberedBatchSampler`."""
    sampler: Any = getattr(loader.batch_sampler, 'sampler', None)
    # mmengine 0.10.7 has already started workers, which have drawn from the sampler.
    loader._iterator = None
    if isinstance(sampler, InfiniteSampler):
        sampler.indices = sampler._indices_of_rank()
    batches = NumberedBatchSampler(loader.batch_sampler, seed, rank)
    # A DataLoader forbids assignment, but its iterators read the attribute each time.
    vars(loader)['batch_sampler'] = batches
    dataset: Any = loader.dataset
    dataset.__getitems__ = partial(_get_items, dataset)
    return batches
