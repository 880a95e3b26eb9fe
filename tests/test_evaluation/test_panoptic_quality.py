"""COCO's definition, by cases counted by hand."""

import numpy as np
import pytest

from mmgcnl.evaluation import average, count_matches


def draw(rows: str) -> np.ndarray:
    """Draw a map from the digits of its pixels: 0 is void, / begins a row."""
    return np.array([[int(pixel) for pixel in row] for row in rows.split('/')])


NOTHING = [0, 0, 0, 0]
# By name: true map, label of each segment and ids of crowds; predicted map and labels; and
# for classes 0 and 1 the expected IoU, TP, FP and FN.
CASES = {
    # Ids differ from the truth's: only labels and places count.
    'perfect': (
        *('1122/3322', {1: 0, 2: 1, 3: 0}, (), '7755/6655', {7: 0, 5: 1, 6: 0}),
        [[2, 2, 0, 0], [1, 1, 0, 0]],
    ),
    '3 of 4 pixels, 4 of 5 pixels': (
        *('1111/2222', {1: 0, 2: 1}, (), '1112/2222', {1: 0, 2: 1}),
        [[3 / 4, 1, 0, 0], [4 / 5, 1, 0, 0]],
    ),
    'half is no match': ('1111', {1: 0}, (), '1100', {1: 0}, [[0, 0, 1, 1], NOTHING]),
    'wrong class': ('1111', {1: 0}, (), '1111', {1: 1}, [[0, 0, 0, 1], [0, 0, 1, 0]]),
    'no prediction': (
        *('1122', {1: 0, 2: 1}, (), '0000', {}),
        [[0, 0, 0, 1], [0, 0, 0, 1]],
    ),
    # 2 common pixels, 2 predicted on void: 2 of 3, not 2 of 5.
    'void is not in the union': (
        *('11100', {1: 0}, (), '01111', {1: 0}),
        [[2 / 3, 1, 0, 0], NOTHING],
    ),
    'more than half on void is ignored': (
        *('000111', {1: 1}, (), '111100', {1: 0}),
        [NOTHING, [0, 0, 0, 1]],
    ),
    'half on void is a false positive': (
        *('001111', {1: 1}, (), '111100', {1: 0}),
        [[0, 0, 1, 0], [0, 0, 0, 1]],
    ),
    'void alone': ('0000', {}, (), '1122', {1: 0, 2: 1}, [NOTHING, NOTHING]),
    'void alone and no prediction': ('0000', {}, (), '0000', {}, [NOTHING, NOTHING]),
    # As panopticapi: 9 is in the image alone, so it is neither missed nor ignored.
    'pixels of no listed segment are not void': (
        *('9999', {}, (), '1111', {1: 0}),
        [[0, 0, 1, 0], NOTHING],
    ),
    'a crowd is not matched': ('1111', {1: 0}, (1,), '1111', {1: 0}, [NOTHING, NOTHING]),
    'a crowd is not missed': ('1111', {1: 0}, (1,), '0000', {}, [NOTHING, NOTHING]),
    'half on a crowd is a false positive': (
        *('1122', {1: 0, 2: 1}, (1,), '5555', {5: 0}),
        [[0, 0, 1, 0], [0, 0, 0, 1]],
    ),
    'crowd of another class': (
        '1111',
        {1: 0},
        (1,),
        '1111',
        {1: 1},
        [NOTHING, [0, 0, 1, 0]],
    ),
    # 2 pixels of crowd, 1 of void, 1 of class 1: 3 of 4 are ignored.
    'crowd and void add up': (
        *('110022', {1: 0, 2: 1}, (1,), '330030', {3: 0}),
        [NOTHING, [0, 0, 0, 1]],
    ),
    # 3 common pixels, 1 on the crowd: 3 of 4.
    'a crowd is in the union of others': (
        *('11122', {1: 0, 2: 0}, (2,), '33330', {3: 0}),
        [[3 / 4, 1, 0, 0], NOTHING],
    ),
    'the last crowd of a class counts': (
        *('1112', {1: 0, 2: 0}, (1, 2), '3333', {3: 0}),
        [[0, 0, 1, 0], NOTHING],
    ),
}


@pytest.mark.parametrize('case', CASES)
def test_matches(case):
    truth_map, labels, crowds, pred_map, pred, expected = CASES[case]
    ids = draw(truth_map)
    truth = [
        dict(id=i, label=label, area=int((ids == i).sum()), iscrowd=int(i in crowds))
        for i, label in labels.items()
    ]
    assert count_matches(ids, truth, draw(pred_map), pred, 2).tolist() == expected


def test_sizes_differ():
    with pytest.raises(ValueError, match=r'pred_ids has the size \(1, 3\).*\(1, 4\)'):
        count_matches(draw('0000'), [], draw('000'), {}, 1)


class TestAverage:
    def test_by_hand(self):
        stats = np.array([[1.5, 2, 1, 1], [0, 0, 0, 3], [0, 0, 0, 0]])
        # class 0: SQ 3/4, RQ 2/3, PQ 1/2; class 1: 0; class 2 does not occur
        expected = dict(pq=1 / 4, sq=3 / 8, rq=1 / 3, n=2)
        assert average(stats) == pytest.approx(expected, abs=1e-15)

    def test_only_false_positives_occur(self):
        assert average(np.array([[0.0, 0, 1, 0]])) == dict(pq=0, sq=0, rq=0, n=1)

    def test_of_nothing(self):
        result = average(np.zeros((2, 4)))
        assert result.pop('n') == 0
        assert np.isnan(list(result.values())).all()
