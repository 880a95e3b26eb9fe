"""How well the questions of the probe are answered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from mmseg.registry import METRICS

from mmgcnl.datasets.probe import BARRELS, CRATES


@METRICS.register_module()
class ProbeMetric(BaseMetric):
    """How many crate pixels have the right side, and barrel pixels the right state.

    ``side`` counts the pixels of crates that are labelled with the right side of the lamp,
    ``lamp`` the pixels of barrels that are labelled with the right state of the lamp (see
    :mod:`mmgcnl.datasets.probe`). Guessing gives 50 %.
    """

    default_prefix = 'probe'

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Count the pixels, ``gt_sem_seg`` and ``pred_sem_seg`` (1, H, W), of a batch."""
        for sample in data_samples:
            truth = sample['gt_sem_seg']['data'].cpu()
            right = truth == sample['pred_sem_seg']['data'].cpu()
            crates, barrels = (
                (truth == first) | (truth == second) for first, second in (CRATES, BARRELS)
            )
            pairs = ((crates, right & crates), (barrels, right & barrels))
            self.results.append([[mask.sum().item() for mask in pair] for pair in pairs])

    def compute_metrics(self, results: list[list[list[int]]]) -> dict[str, float]:
        """Compute ``side`` and ``lamp``, in percent, over all images."""
        side, lamp = (100 * right / pixels for pixels, right in np.sum(results, axis=0))
        return dict(side=side, lamp=lamp)
