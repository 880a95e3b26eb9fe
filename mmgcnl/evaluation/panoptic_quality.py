"""Panoptic quality, PQ = SQ * RQ, as COCO computes it.

A. Kirillov et al., "Panoptic Segmentation", CVPR 2019. Void pixels and crowds, which the
paper leaves open, are treated as in COCO's panopticapi.evaluation.

Shape shorthand: H, W: pixels; C: classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from mmgcnl.structures import VOID

IOU, TP, FP, FN = range(4)  # columns of the statistics


def count_matches(
    truth_ids: np.ndarray,
    truth: Iterable[Mapping],
    pred_ids: np.ndarray,
    pred: Mapping[int, int],
    num_classes: int,
) -> np.ndarray:
    """Match the predicted segments of one image with the true ones.

    A predicted and a true segment of the same class match when their IoU exceeds 0.5,
    which makes the match unique. Void pixels of the truth do not count towards the
    union. A crowd matches nothing and is not a false negative. A predicted segment is not
    a false positive if more than half of it is void or on a crowd of its class. (If a
    class has several crowds, the last one counts, as in panopticapi.)

    Args:
        truth_ids: (H, W), integer, the segment of each pixel, 0 for void.
        truth: The true segments, each with ``id``, ``label`` (0 to
            C - 1), ``area`` in pixels and ``iscrowd`` (0 or 1).
        pred_ids: (H, W), integer, 0 for void.
        pred: Label of each predicted segment by its id.
        num_classes: C.

    Returns:
        (C, 4), float64: the sum of the matches' IoUs, and the numbers of true positives,
        false positives and false negatives. The statistics of several images add up.

    Raises:
        ValueError: The two maps differ in size.
    """
    if truth_ids.shape != pred_ids.shape:
        raise ValueError(
            f'pred_ids has the size {pred_ids.shape}, but truth_ids {truth_ids.shape}'
        )
    truth = {segment['id']: segment for segment in truth}
    base = int(pred_ids.max(initial=0)) + 1
    pairs, counts = np.unique(
        truth_ids.astype(np.int64) * base + pred_ids, return_counts=True
    )
    overlap = {divmod(p, base): n for p, n in zip(pairs.tolist(), counts.tolist())}
    pred_area = dict.fromkeys(pred, 0)
    for (_, pred_id), count in overlap.items():
        if pred_id in pred:
            pred_area[pred_id] += count

    stats = np.zeros((num_classes, 4))
    matched_truth, matched_pred = set(), set()
    for (truth_id, pred_id), count in overlap.items():
        if truth_id not in truth or pred_id not in pred:
            continue
        segment, label = truth[truth_id], pred[pred_id]
        if segment['iscrowd'] or segment['label'] != label:
            continue
        area = pred_area[pred_id] - overlap.get((VOID, pred_id), 0)
        iou = count / (area + segment['area'] - count)
        if iou > 0.5:
            stats[label, IOU] += iou
            stats[label, TP] += 1
            matched_truth.add(truth_id)
            matched_pred.add(pred_id)

    crowds = {}
    for truth_id, segment in truth.items():
        if segment['iscrowd']:
            crowds[segment['label']] = truth_id
        elif truth_id not in matched_truth:
            stats[segment['label'], FN] += 1
    for pred_id, label in pred.items():
        if pred_id in matched_pred:
            continue
        ignored = overlap.get((VOID, pred_id), 0)
        if label in crowds:
            ignored += overlap.get((crowds[label], pred_id), 0)
        if 2 * ignored <= pred_area[pred_id]:
            stats[label, FP] += 1
    return stats


def average(stats: np.ndarray) -> dict[str, float]:
    """Average PQ, SQ and RQ over the classes that occur.

    A class occurs if it is in the truth or predicted: TP + FP + FN > 0.

    Args:
        stats: (C, 4), sum of what :func:`count_matches` returns.

    Returns:
        ``pq``, ``sq`` and ``rq``, from 0 to 1, nan if no class occurs; and ``n``, the
        number of classes that the averages are taken over.
    """
    iou, tp, fp, fn = stats[stats[:, TP:].sum(1) > 0].T
    if not len(iou):
        return dict(pq=np.nan, sq=np.nan, rq=np.nan, n=0)
    total = tp + 0.5 * fp + 0.5 * fn
    sq = iou / np.maximum(tp, 1)  # 0 without a match
    return dict(
        pq=(iou / total).mean().item(),
        sq=sq.mean().item(),
        rq=(tp / total).mean().item(),
        n=len(iou),
    )
