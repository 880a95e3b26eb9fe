import numpy as np
import pytest
import torch
from mmseg.evaluation import IoUMetric

from mmgcnl.evaluation import SubsetIoUMetric

CLASSES = ('ground', 'tree', 'sign', 'fog')


def sample(name, truth, predicted):
    return dict(
        img_path=f'images/test/{name}.png',
        gt_sem_seg=dict(data=torch.tensor([truth])),
        pred_sem_seg=dict(data=torch.tensor([predicted])),
    )


SAMPLES = [
    sample('A_1', [[0, 0, 1, 1]], [[0, 0, 0, 1]]),
    sample('A_2', [[0, 2, 255, 1]], [[0, 1, 1, 1]]),
    sample('B_1', [[1, 1, 1, 0]], [[1, 1, 1, 1]]),
]


def evaluate(metric, samples=SAMPLES):
    metric.dataset_meta = dict(classes=CLASSES)
    metric.process({}, samples)
    return metric.evaluate(len(samples))


def test_subsets():
    metric = SubsetIoUMetric(
        classes=dict(some=['ground', 'tree']), images=dict(A='A_', B='B', C='C')
    )
    found = evaluate(metric)
    # A: ground 3 of 4, tree 2 of 4, sign 0 of 1. B: ground 0 of 1, tree 3 of 4.
    assert found['A/mIoU'] == pytest.approx(100 * (3 / 4 + 2 / 4 + 0) / 3, abs=0.01)
    assert found['A/mIoU_some'] == pytest.approx(100 * (3 / 4 + 2 / 4) / 2, abs=0.01)
    assert found['A/aAcc'] == pytest.approx(100 * 5 / 7, abs=0.01)
    assert found['B/mIoU'] == pytest.approx(100 * (0 + 3 / 4) / 2, abs=0.01)
    # Both: ground 3 of 5, tree 5 of 8.
    assert found['IoU/ground'] == pytest.approx(100 * 3 / 5)
    assert found['mIoU_some'] == pytest.approx(100 * (3 / 5 + 5 / 8) / 2, abs=0.01)
    assert found['IoU/sign'] == 0
    assert 'IoU/fog' not in found
    assert not [name for name in found if name.startswith('C/')]


def test_whole_is_mmsegs():
    whole = evaluate(IoUMetric())
    found = evaluate(SubsetIoUMetric(images=dict(all='')))
    assert {name: found[name] for name in whole} == whole
    assert found['all/mIoU'] == pytest.approx(whole['mIoU'])
    assert np.isclose(found['all/aAcc'], whole['aAcc'])


def test_unknown_class():
    metric = SubsetIoUMetric(classes=dict(some=['ground', 'cloud']))
    with pytest.raises(ValueError, match=r"classes=\['cloud'\].*ground, tree, sign, fog"):
        evaluate(metric)
