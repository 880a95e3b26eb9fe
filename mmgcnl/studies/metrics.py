"""The metrics of a study: what is measured, and how it is reported."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmengine.config import Config

from mmgcnl.utils.config_types import type_name

#: What is measured in every run besides the metrics of its config. The distances exist
#: only for models with non-local blocks; those at iteration 0 end in ``_initial``.
MEASURED = (
    'train_seconds',
    'seconds_per_iteration',
    'peak_memory_mib',
    *(
        f'cos_{kind}{when}'
        for when in ('', '_initial')
        for kind in ('input', 'output', 'att')
    ),
)


@dataclass(frozen=True)
class Metric:
    """How a metric is reported: its value is multiplied by ``factor``."""

    name: str
    label: str
    digits: int = 1
    factor: float = 1.0


def format_value(value: float, metric: Metric, sign: bool = False) -> str:
    """Format a value for a report; NaN becomes ''.

    With ``sign``, it has one, and has an exponent if it would otherwise round to zero.
    """
    if math.isnan(value):
        return ''
    value *= metric.factor
    text = f'{value:{"+" if sign else ""}.{metric.digits}f}'
    if float(text) != 0:
        return text
    if sign and abs(value) > 1e-9:  # and no rounding error of larger values
        return f'{value:+.0e}'
    return text.replace('-', '')  # no sign for a value that rounds to zero


DISTANCES = {
    name: Metric(name, f'dist. {what}', 3)
    for name, what in (
        ('cos_input', 'input'),
        ('cos_output', 'output'),
        ('cos_att', 'attention'),
        ('cos_input_initial', 'input, iteration 0'),
        ('cos_output_initial', 'output, iteration 0'),
        ('cos_att_initial', 'attention, iteration 0'),
    )
}
#: The metrics behind the figures that the paper prints, by their keys in
#: configs/paper_tables.yml.
PAPER_METRICS = {
    'pixAcc': Metric('aAcc', 'pixAcc', 2),
    'mIoU': Metric('mIoU', 'mIoU', 2),
    **{
        f'{kind}{threshold}': Metric(
            f'coco/{kind}_mAP{threshold}',
            f'{what} AP{threshold.removeprefix("_")}',
            1,
            100.0,
        )
        for kind, what in (('bbox', 'box'), ('segm', 'mask'))
        for threshold in ('', '_50', '_75')
    },
    'PQ': Metric('coco_panoptic/PQ', 'PQ', 1),
    'PQ_th': Metric('coco_panoptic/PQ_th', 'PQ things', 1),
    'PQ_st': Metric('coco_panoptic/PQ_st', 'PQ stuff', 1),
    **{name: DISTANCES[name] for name in ('cos_input', 'cos_output', 'cos_att')},
}


def metric_names(cfg: Config) -> set[str] | None:
    """Return patterns of the metrics that testing a config yields.

    None for an unknown evaluator. ``*`` stands for what the classes of the data decide.
    """
    evaluators = cfg.get('test_evaluator')
    if not isinstance(evaluators, (list, tuple)):
        evaluators = [evaluators]
    found: set[str] = set()
    for evaluator in evaluators:
        kind = type_name((evaluator or {}).get('type'))
        if kind not in _NAMES_OF:
            return None
        default, names = _NAMES_OF[kind]
        prefix = evaluator.get('prefix') or default
        found |= {f'{prefix}/{n}' if prefix else n for n in names(evaluator)}
    return found


def _names_of_iou(evaluator: Mapping) -> set[str]:
    kinds = evaluator.get('iou_metrics', ['mIoU'])
    found = {'aAcc'}
    for kind in [kinds] if isinstance(kinds, str) else kinds:
        found |= {
            'mIoU': {'mIoU', 'mAcc'},
            'mDice': {'mDice', 'mAcc'},
            'mFscore': {'mFscore', 'mPrecision', 'mRecall'},
        }.get(kind, set())
    return found


def _names_of_coco(evaluator: Mapping) -> set[str]:
    kinds = evaluator.get('metric', 'bbox')
    items = evaluator.get('metric_items') or [
        'mAP',
        'mAP_50',
        'mAP_75',
        'mAP_s',
        'mAP_m',
        'mAP_l',
    ]
    found = set()
    for kind in [kinds] if isinstance(kinds, str) else kinds:
        if kind.startswith('proposal'):
            found.add('AR*')
        else:
            found |= {f'{kind}_{item}' for item in items}
    return found | ({'*_precision'} if evaluator.get('classwise') else set())


def _names_of_subsets(evaluator: Mapping) -> set[str]:
    overall = {'aAcc', 'mIoU', *(f'mIoU_{name}' for name in evaluator.get('classes', {}))}
    groups = {f'{group}/{n}' for group in evaluator.get('images', {}) for n in overall}
    return {*overall, *groups, 'mAcc', 'IoU/*'}


# Type of an evaluator -> its default prefix, and a function from its config to its metrics.
_NAMES_OF: dict[str, tuple[str, Any]] = {
    'IoUMetric': ('', _names_of_iou),
    'SubsetIoUMetric': ('', _names_of_subsets),
    'CocoMetric': ('coco', _names_of_coco),
    'PanopticQuality': (
        'coco_panoptic',
        lambda _: {f'{q}{s}' for q in ('PQ', 'SQ', 'RQ') for s in ('', '_th', '_st')},
    ),
    'ProbeMetric': ('probe', lambda _: {'side', 'lamp'}),
}
