"""What the probe promises: labels follow the rule, and nothing gives them away."""

import cv2
import numpy as np
import pytest

pytest.importorskip('mmseg')
from mmgcnl.datasets.probe import (  # noqa: E402
    CELL,
    LAMPS,
    SKY,
    ProbeDataset,
    draw_scene,
    make_probe,
)


@pytest.fixture(scope='module')
def scenes():
    rng = np.random.default_rng(7)
    return [draw_scene(rng) for _ in range(300)]


def read(image, labels):
    """Lamps (hue -> place, lit), the sky's hue, and objects (place, class) of a scene."""
    cells = labels[::CELL, ::CELL]

    def hue(y, x):
        corner = image[y * CELL, x * CELL : (x + 1) * CELL].mean(0)
        return int(np.abs(LAMPS - corner).sum(1).argmin())

    lamps = {}
    for y, x in np.argwhere(cells == 2):
        middle = image[y * CELL + 1 : y * CELL + 3, x * CELL + 1 : x * CELL + 3]
        lamps[hue(y, x)] = (int(y), int(x), bool(middle.mean() > 200))
    objects = [(int(y), int(x), int(cells[y, x]) - 3) for y, x in np.argwhere(cells > 2)]
    return lamps, hue(0, 0), objects


def test_labels_follow_the_rule(scenes):
    for image, labels in scenes:
        lamps, sky, objects = read(image, labels)
        assert len(lamps) == 6
        assert len(objects) == 16
        y, x, lit = lamps[sky]
        for row, column, label in objects:
            barrel = image[row * CELL : (row + 1) * CELL, column * CELL + 1].mean() > 110
            assert column != x
            assert label == (2 + lit if barrel else column > x)


def test_neighbourhood_and_border_tell_nothing(scenes):
    for image, labels in scenes:
        lamps, _, objects = read(image, labels)
        cells = labels[::CELL, ::CELL]
        for y, x, _ in objects:
            assert all(max(abs(y - v), abs(x - u)) > 1 for v, u, _ in lamps.values())
        assert not cells[[SKY, -1]].any()
        assert not cells[SKY:, [0, -1]].any()


def test_counting_lamps_is_right_as_often_as_documented(scenes):
    right = total = 0
    classes = np.zeros(4)
    for image, labels in scenes:
        lamps, _, objects = read(image, labels)
        for _, x, label in objects:
            classes[label] += 1
            if label < 2:
                votes = np.sign(sum(np.sign(x - u) for _, u, _ in lamps.values()))
                right += 0.5 + votes * (label - 0.5)
                total += 1
    assert right / total == pytest.approx(0.82, abs=0.02)
    assert classes.min() > 0.2 * classes.sum()


def test_make_probe(tmp_path):
    make_probe(tmp_path / 'a', num_train=3, num_val=2)
    make_probe(tmp_path / 'b', num_train=3, num_val=2)
    files = sorted(p.relative_to(tmp_path / 'a') for p in (tmp_path / 'a').rglob('*.png'))
    assert len(files) == 2 * (3 + 2)
    for file in files:
        assert (tmp_path / 'a' / file).read_bytes() == (tmp_path / 'b' / file).read_bytes()
    dataset = ProbeDataset(
        data_root=str(tmp_path / 'a'),
        data_prefix=dict(img_path='images/train', seg_map_path='annotations/train'),
    )
    assert len(dataset) == 3
    # Drawn in RGB, stored as any PNG.
    image, labels = draw_scene(np.random.default_rng(0))
    stored = cv2.imread(dataset[0]['img_path'])
    np.testing.assert_array_equal(stored[..., ::-1], image)
    stored = cv2.imread(dataset[0]['seg_map_path'], cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(stored, labels)


def test_seeds_draw_other_scenes(tmp_path):
    """No scene is drawn twice, whatever the seed and the split."""
    for seed in (0, 1, 2):
        make_probe(tmp_path / str(seed), num_train=2, num_val=2, seed=seed)
    images = [path.read_bytes() for path in tmp_path.glob('*/images/*/*.png')]
    assert len(set(images)) == len(images) == 3 * 4
