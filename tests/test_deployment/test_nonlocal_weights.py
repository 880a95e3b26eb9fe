"""Weights of mmdet's BFP as weights of EBFPN; see also test_nonlocal_to_gcnl.py."""

import pytest
import torch
from torch import nn

BFP = pytest.importorskip('mmdet.models.necks').BFP
from mmgcnl import EBFPN  # noqa: E402
from mmgcnl.deployment import convert_state_dict, largest_difference  # noqa: E402


class Detector(nn.Module):
    """Takes an image to the levels of a neck."""

    def __init__(self, neck: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 1)
        self.neck = neck

    def extract_feat(self, x):
        x = self.stem(x)
        return self.neck([x, x[..., ::2, ::2], x[..., ::4, ::4]])


@pytest.fixture
def source():
    neck = BFP(16, 3, 1, refine_type='non_local')
    for parameter in neck.parameters():
        nn.init.normal_(parameter, std=0.3)
    return Detector(neck).eval()


def target(**options):
    block = dict(type='GCNonLocal2d', reduction=1, num_heads=1, scale=1.0)
    return Detector(EBFPN(16, 3, 1, refine={**block, **options})).eval()


def test_nan_is_a_difference(source):
    ours = target()
    ours.load_state_dict(convert_state_dict(source, ours)[0])
    assert largest_difference(source, ours, [(16, 24), (20, 32)]) < 1e-5
    with torch.no_grad():
        ours.neck.refine.out.bias[0] = torch.nan
    assert not largest_difference(source, ours, [(16, 24), (20, 32)]) < 1


def test_every_fault_is_named(source):
    with pytest.raises(ValueError) as error:
        convert_state_dict(source, target(reduction=2, norm_cfg=dict(type='BN')))
    text = str(error.value)
    assert 'the source has no weights for neck.refine.norm.bias, ' in text
    assert 'the source has another shape of neck.refine.key.bias, ' in text
    assert text.count(', ...') == 2  # three names of each are enough
