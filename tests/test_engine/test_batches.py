"""Numbered batches; test_resume.py trains with them."""

import copy

from mmgcnl.engine.batches import NumberedBatchSampler


def test_can_be_copied():
    clone = copy.deepcopy(NumberedBatchSampler([[0, 1], [2, 3]], seed=3, rank=1))
    assert (clone.seed, list(clone)) == ((3, 1), [[0, 1], [2, 3]])
