import pytest
import torch
from torch import nn

from mmgcnl.analysis import DistanceRecorder, mean_cosine_distance
from mmgcnl.layers import GCNonLocal2d


def pairwise(vectors):
    """The footnote's definition, all N x N pairs."""
    cos = nn.functional.cosine_similarity(vectors[:, None], vectors[None], dim=-1)
    return ((1 - cos) / 2).mean()


def test_equals_all_pairs():
    vectors = torch.randn(3, 2, 17, 5, dtype=torch.float64) + 0.5
    distances = mean_cosine_distance(vectors)
    assert distances.shape == (3, 2)
    expected = torch.stack([pairwise(v) for v in vectors.flatten(0, 1)]).view(3, 2)
    torch.testing.assert_close(distances, expected)


def test_extremes():
    same = torch.ones(4, 3)
    assert mean_cosine_distance(same).item() == pytest.approx(0)
    opposite = torch.tensor([[1.0, 0.0], [-2.0, 0.0]])
    assert mean_cosine_distance(opposite).item() == pytest.approx(0.5)


def test_recorder():
    block = GCNonLocal2d(16, reduction=1, num_heads=2).eval()
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5)
    batches = [torch.randn(2, 16, 4, 5), torch.randn(1, 16, 6, 3)]
    with DistanceRecorder(block) as recorder:
        outputs = [block(x) for x in batches]
    block(batches[0])  # no longer recorded
    expected: dict[str, list] = dict(input=[], output=[], attention=[])
    for x, y in zip(batches, outputs):
        for image, added in zip(x, y - x):
            expected['input'].append(pairwise(image.flatten(1).T.double()))
            expected['output'].append(pairwise(added.flatten(1).T.double()))
        for heads in block.attention_weights(x):
            maps = [pairwise(head.double()) for head in heads]
            expected['attention'].append(torch.stack(maps).mean())
    for name, value in recorder.mean().items():
        assert len(expected[name]) == 3
        assert value == pytest.approx(torch.stack(expected[name]).mean().item(), abs=1e-6)
