"""Metrics that mmseg and mmdet do not have, or not without further packages."""

from mmgcnl.utils.libraries import usable

from .panoptic_quality import average, count_matches

__all__ = ['average', 'count_matches']

if usable('mmseg'):
    from .probe_metric import ProbeMetric  # noqa: F401

    __all__ += ['ProbeMetric']
if usable('mmdet'):
    from .panoptic_metric import PanopticQuality  # noqa: F401

    __all__ += ['PanopticQuality']
if usable('mmseg'):
    from .subset_iou_metric import SubsetIoUMetric  # noqa: F401

    __all__ += ['SubsetIoUMetric']
