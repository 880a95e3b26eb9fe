"""The probe's metric on labels counted by hand."""

import pytest
import torch

pytest.importorskip('mmseg')
from mmgcnl.evaluation import ProbeMetric  # noqa: E402


def test_counts_by_hand():
    truth = torch.tensor([[0, 3, 4, 4, 5, 6, 6, 6, 5]])
    guess = torch.tensor([[3, 3, 3, 4, 5, 5, 0, 6, 4]])
    metric = ProbeMetric()
    sample = dict(gt_sem_seg=dict(data=truth), pred_sem_seg=dict(data=guess))
    metric.process(None, [sample])
    metrics = metric.evaluate(1)
    assert metrics == {
        'probe/side': pytest.approx(200 / 3),
        'probe/lamp': pytest.approx(40.0),
    }
