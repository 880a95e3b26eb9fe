import pytest
import torch
from mmcv.cnn import NonLocal2d
from mmcv.cnn.bricks import GeneralizedAttention
from torch import nn

from mmgcnl.analysis import DistanceRecorder, blocks, mean_cosine_distance
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


@pytest.mark.parametrize(
    'block',
    [
        GCNonLocal2d(16, reduction=1, num_heads=2),
        NonLocal2d(16),
        GeneralizedAttention(16, num_heads=4, kv_stride=2),
    ],
)
def test_recorder_equals_the_definition(block, monkeypatch):
    monkeypatch.setattr(blocks, '_CHUNK', 200)  # several chunks a map
    for parameter in block.eval().parameters():
        nn.init.normal_(parameter, std=0.5)
    batches = [torch.randn(2, 16, 4, 5), torch.randn(1, 16, 6, 3)]
    with DistanceRecorder({'b': block}) as recorder:
        outputs = [block(x) for x in batches]
    block(batches[0])  # no longer recorded
    expected: dict[str, list] = dict(input=[], output=[], attention=[])
    heads = []
    for x, y in zip(batches, outputs):
        for image, added in zip(x, y - x):
            expected['input'].append(pairwise(image.flatten(1).T.double()))
            expected['output'].append(pairwise(added.flatten(1).T.double()))
        weights = torch.cat(list(blocks.iter_attention(block, x)), dim=2)
        for maps in weights:
            heads.append(torch.stack([pairwise(head.double()) for head in maps]))
            expected['attention'].append(heads[-1].mean())
    for name, value in recorder.mean('b').items():
        assert len(expected[name]) == 3
        assert value == pytest.approx(torch.stack(expected[name]).mean().item(), abs=1e-6)
    torch.testing.assert_close(
        torch.stack(recorder.heads['b']), torch.stack(heads), atol=1e-6, rtol=0
    )


def test_shares_of_classes(monkeypatch):
    monkeypatch.setattr(blocks, '_CHUNK', 40)
    block = GCNonLocal2d(8, reduction=1, num_heads=2, kv_stride=2).eval()
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5)
    x = torch.randn(1, 8, 4, 6)
    labels = torch.randint(-1, 4, (4, 6))  # 3 is not a class of three

    def labels_at(grid, size):
        assert size == (4, 6)
        rows, columns = (int(n) for n in (grid.stride, grid.stride))
        return labels[::rows, ::columns].numpy()

    with DistanceRecorder({'b': block}, num_classes=3) as recorder:
        recorder.labels = labels_at
        block(x)
        block(x)
    weights = block.attention_weights(x)[0].mean(0)
    expected = torch.zeros(3, 4, dtype=torch.float64)
    uniform = torch.zeros(3, 4, dtype=torch.float64)
    keys = labels[::2, ::2].flatten().tolist()
    for query, label in enumerate(labels.flatten().tolist()):
        if 0 <= label < 3:
            for key, other in enumerate(keys):
                other = other if 0 <= other < 3 else 3
                expected[label, other] += 2 * weights[query, key].item()
                uniform[label, other] += 2 / len(keys)
    counts = [2 * (labels == label).sum().item() for label in range(3)]
    assert recorder.queries['b'].tolist() == counts
    torch.testing.assert_close(recorder.shares['b'], expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(recorder.uniform['b'], uniform, atol=1e-5, rtol=0)


def test_recorder_removes_its_hooks():
    """Neither a hook nor an attribute: a normal forward pass is what it was."""
    block = GCNonLocal2d(16, reduction=1).eval()
    before = {name: id(value) for name, value in vars(block).items()}
    with DistanceRecorder({'b': block}) as recorder:
        assert len(block._forward_hooks) == 1
        block(torch.randn(1, 16, 4, 4))
    assert not block._forward_hooks
    assert {name: id(value) for name, value in vars(block).items()} == before
    # nor does the recorder keep maps or attention alive
    kept = [t for t in vars(recorder).values() if isinstance(t, torch.Tensor)]
    assert not kept
