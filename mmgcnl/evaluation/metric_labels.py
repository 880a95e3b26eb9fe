"""How metrics are reported: labels, digits, and which of them need a benchmark's server."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """How a metric is reported.

    Attributes:
        name: Its name among the results of an evaluation.
        label: What tables call it.
        digits: Digits behind the point.
        factor: What its value is multiplied by.
    """

    name: str
    label: str
    digits: int = 1
    factor: float = 1.0

    def format(self, value: float, sign: bool = False) -> str:
        """Format a value that was measured; NaN becomes ''.

        With ``sign``, it has one, and has an exponent if it would otherwise round to zero.
        """
        if math.isnan(value):
            return ''
        value *= self.factor
        text = f'{value:{"+" if sign else ""}.{self.digits}f}'
        if float(text) != 0:
            return text
        if sign and abs(value) > 1e-9:  # and no rounding error of larger values
            return f'{value:+.0e}'
        return text.replace('-', '')  # no sign for a value that rounds to zero

    def format_printed(self, value: float | str | None) -> str:
        """Format a figure of the paper, with the zeros at its end; '' for None."""
        if value is None:
            return ''
        return f'{value:.{self.digits}f}' if isinstance(value, float) else str(value)


#: Cosine distances of the attention, trained and at iteration 0.
DISTANCES = {
    f'cos_{kind}{when}': Metric(f'cos_{kind}{when}', f'dist. {what}{suffix}', 3)
    for when, suffix in (('', ''), ('_initial', ', iteration 0'))
    for kind, what in (('input', 'input'), ('output', 'output'), ('att', 'attention'))
}
# In the rest, the keys are those of configs/paper_tables.yml.
#: What the paper's tables print of costs.
COSTS = {
    'params': Metric('params', 'params (M)', 2),
    'flops': Metric('flops', 'FLOPs (G)', 2),
    'memory_gb': Metric('memory_gb', 'memory (GB)'),
    'fps': Metric('fps', 'fps'),
}
#: The metrics behind the figures that they print of trained models.
PAPER_METRICS = {
    'pixAcc': Metric('aAcc', 'pixAcc', 2),
    'mIoU': Metric('mIoU', 'mIoU', 2),
    **{
        f'{kind}{threshold}': Metric(
            f'coco/{kind}_mAP{threshold}',
            f'{what} AP{threshold.removeprefix("_")}',
            factor=100.0,
        )
        for kind, what in (('bbox', 'box'), ('segm', 'mask'))
        for threshold in ('', '_50', '_75')
    },
    'PQ': Metric('coco_panoptic/PQ', 'PQ'),
    'PQ_th': Metric('coco_panoptic/PQ_th', 'PQ things'),
    'PQ_st': Metric('coco_panoptic/PQ_st', 'PQ stuff'),
    **{name: DISTANCES[name] for name in ('cos_input', 'cos_output', 'cos_att')},
}
#: Data sets whose test images have annotations only on the benchmark's server.
SCORED_ON_A_SERVER = {'coco_test_dev': 'COCO test-dev', 'cityscapes': 'Cityscapes'}
