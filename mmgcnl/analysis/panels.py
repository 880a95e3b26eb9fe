"""Predictions of several models for one image, beside its ground truth."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from mmengine.structures import BaseDataElement

from mmgcnl.apis import Inferencer


def prediction_panels(
    path: str,
    truth: BaseDataElement | None,
    models: Mapping[str, Inferencer],
    score_thr: float = 0.3,
) -> tuple[dict[str, np.ndarray], list[BaseDataElement]]:
    """Draw an image, its ground truth, and what several models predict for it.

    Args:
        path: Path of the image.
        truth: A data sample with ground truth at the image's size; None, or a data sample
            without any, if there is no ground truth.
        models: The models by the titles of their panels.
        score_thr: Instances with a lower score are not drawn.

    Returns:
        The pictures (H, W, 3), RGB, uint8, by their titles, for
        :func:`mmgcnl.analysis.draw_panels`; and the data samples that were drawn, for a
        legend.

    Raises:
        ValueError: The image does not decode, or a model fails on it.
    """
    row = {'input': [*models.values()][-1].overlays.reader.picture(path)}
    samples = []
    if truth is not None and {'gt_sem_seg', 'gt_instances'} & set(truth.keys()):
        row['ground truth'] = next(iter(models.values())).draw_truth(path, truth)
        samples.append(truth)
    for name, inferencer in models.items():
        results = inferencer(path, return_datasamples=True)
        for reason in results['failed'].values():
            raise ValueError(f'{path}, {name}: {reason}')
        (pred,) = results['predictions']
        (row[name],) = inferencer.visualize([path], [pred], score_thr)
        samples.append(pred)
    return row, samples
