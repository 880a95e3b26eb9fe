import numpy as np
import pytest

from mmgcnl.analysis.explorer.differences import differences, label_at
from mmgcnl.structures import InstancePrediction, PanopticPrediction, SemanticPrediction

CLASSES = ['cat', 'dog', 'sky']
SIZE = (100, 120)


def semantic(*rows):
    return SemanticPrediction(np.array(rows))


def panoptic(ids, labels):
    ids = np.array(ids)
    areas = {number: int((ids == number).sum()) for number in labels}
    return PanopticPrediction(ids, labels, areas)


def test_pixels_that_change():
    before = semantic([0, 0, 1, 2], [0, 0, 1, 2])
    after = semantic([0, 1, 1, 2], [0, 1, 1, 0])
    text, changed = differences(before, after, CLASSES, 0.3, SIZE)
    assert text == (
        'Another class for 37.5% of the pixels: cat to dog (67% of these), '
        'sky to cat (33% of these).'
    )
    assert changed.tolist() == [[False, True, False, False], [False, True, False, True]]


def test_nothing_changes():
    text, changed = differences(semantic([0, 255]), semantic([0, 255]), CLASSES, 0.3, SIZE)
    assert text == 'No pixel changes its class.'
    assert not changed.any()


def test_a_few_pixels_are_not_called_none():
    before, after = np.zeros((100, 100), int), np.zeros((100, 100), int)
    after[0, 0] = 1
    text, _ = differences(
        SemanticPrediction(before), SemanticPrediction(after), CLASSES, 0, SIZE
    )
    assert text.startswith('Another class for 1 of 10000 pixels: cat to dog')


def test_objects_lost_new_and_kept():
    boxes = [[0, 0, 10, 10], [20, 20, 30, 30], [50, 50, 60, 60], [0, 0, 99, 99]]
    before = InstancePrediction([0, 1, 0, 2], [0.9, 0.8, 0.7, 0.1], boxes, None)
    moved = [[1, 0, 11, 10], [20, 20, 30, 30], [80, 80, 90, 90]]
    after = InstancePrediction([0, 0, 1], [0.6, 0.5, 0.4], moved, None)
    text, changed = differences(before, after, CLASSES, 0.3, SIZE)
    assert text == (
        'Lost: dog 0.80, cat 0.70. New: cat 0.50, dog 0.40. Other scores: cat 0.90 to 0.60.'
    )
    assert changed.shape == SIZE
    # The boxes of what is lost and new, not of what stays.
    assert changed[25, 25] and changed[55, 55] and changed[85, 85]
    assert not changed[5, 5] and not changed[99, 99] and changed.sum() == 3 * 11**2
    assert differences(before, before, CLASSES, 0.3, SIZE)[0] == 'All 3 objects stay.'
    nothing = InstancePrediction([], [], [], None)
    text, _ = differences(nothing, nothing, CLASSES, 0.3, SIZE)
    assert text == 'There is no object, as before.'


def test_segments_lost_and_new():
    before = panoptic([[1, 1, 2, 0], [1, 1, 2, 3]], {1: 0, 2: 1, 3: 2})
    after = panoptic([[1, 1, 2, 0], [1, 1, 2, 2]], {1: 0, 2: 2})
    text, changed = differences(before, after, CLASSES, 0.3, SIZE)
    assert text == (
        'Another class for 25.0% of the pixels: dog to sky (100% of these). '
        'Segments lost: dog, sky. New segments: sky.'
    )
    assert changed.sum() == 2
    text, _ = differences(before, before, CLASSES, 0.3, SIZE)
    assert text == 'No pixel changes its class. All 3 segments stay.'


@pytest.mark.parametrize(
    ('point', 'label'), [((0, 0), 'cat'), ((2, 1), 'dog'), ((3, 0), 'no class')]
)
def test_label_of_a_pixel(point, label):
    assert label_at(semantic([0, 0, 0, 255], [0, 0, 1, 1]), point, CLASSES, 0.3) == label
    segments = panoptic([[4, 4, 4, 0], [4, 4, 2, 2]], {4: 0, 2: 1})
    assert label_at(segments, point, CLASSES, 0.3) == label


def test_objects_at_a_point():
    boxes = [[0, 0, 10, 10], [5, 5, 30, 30], [0, 0, 99, 99]]
    found = InstancePrediction([0, 1, 2], [0.6, 0.8, 0.1], boxes, None)
    assert label_at(found, (7, 7), CLASSES, 0.3) == 'dog 0.80, cat 0.60'
    assert label_at(found, (50, 50), CLASSES, 0.3) == 'no object'


def test_objects_at_a_point_by_their_masks():
    from pycocotools.mask import encode

    mask = np.zeros((20, 20), np.uint8)
    mask[2:6, 2:6] = 1
    masks = [encode(np.asfortranarray(mask))]
    found = InstancePrediction([0], [0.6], [[0, 0, 19, 19]], masks)
    assert label_at(found, (3, 5), CLASSES, 0.3) == 'cat 0.60'
    assert label_at(found, (5, 7), CLASSES, 0.3) == 'no object'
