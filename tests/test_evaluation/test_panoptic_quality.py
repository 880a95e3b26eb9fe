"""COCO's definition, by cases counted by hand. Maps are drawn as digits, 0 is void."""

import numpy as np
import pytest

from mmgcnl.evaluation import average, count_matches

IOU, TP, FP, FN = range(4)


def draw(*rows: str) -> np.ndarray:
    return np.array([[int(pixel) for pixel in row] for row in rows])


def segment(id_: int, label: int, area: int, iscrowd: int = 0) -> dict:
    return dict(id=id_, label=label, area=area, iscrowd=iscrowd)


def count(truth_ids, truth, pred_ids, pred, num_classes=2) -> list[list[float]]:
    return count_matches(truth_ids, truth, pred_ids, pred, num_classes).tolist()


NOTHING = [0, 0, 0, 0]


def test_perfect():
    ids = draw('1122', '3322')
    truth = [segment(1, 0, 2), segment(2, 1, 4), segment(3, 0, 2)]
    # Ids differ from the truth's: only labels and places count.
    pred = draw('7755', '6655')
    assert count(ids, truth, pred, {7: 0, 5: 1, 6: 0}) == [[2, 2, 0, 0], [1, 1, 0, 0]]


def test_iou_of_a_match():
    truth_ids = draw('1111', '2222')
    truth = [segment(1, 0, 4), segment(2, 1, 4)]
    pred_ids = draw('1112', '2222')
    # 3 of 4 pixels; 4 of 5 pixels
    expected = [[3 / 4, 1, 0, 0], [4 / 5, 1, 0, 0]]
    assert count(truth_ids, truth, pred_ids, {1: 0, 2: 1}) == expected


def test_half_is_no_match():
    truth_ids = draw('1111')
    pred_ids = draw('1100')
    stats = count(truth_ids, [segment(1, 0, 4)], pred_ids, {1: 0})
    assert stats == [[0, 0, 1, 1], NOTHING]


def test_wrong_class():
    ids = draw('1111')
    stats = count(ids, [segment(1, 0, 4)], ids, {1: 1})
    assert stats == [[0, 0, 0, 1], [0, 0, 1, 0]]


def test_no_prediction_is_all_missed():
    truth_ids = draw('1122')
    truth = [segment(1, 0, 2), segment(2, 1, 2)]
    stats = count(truth_ids, truth, np.zeros_like(truth_ids), {})
    assert stats == [[0, 0, 0, 1], [0, 0, 0, 1]]


class TestVoid:
    def test_is_not_in_the_union(self):
        # 2 common pixels, 2 predicted on void: 2 of 3, not 2 of 5.
        truth_ids = draw('11100')
        pred_ids = draw('01111')
        stats = count(truth_ids, [segment(1, 0, 3)], pred_ids, {1: 0})
        assert stats == [[2 / 3, 1, 0, 0], NOTHING]

    def test_more_than_half_on_it_is_ignored(self):
        truth_ids = draw('000111')
        pred_ids = draw('111100')
        stats = count(truth_ids, [segment(1, 1, 3)], pred_ids, {1: 0})
        assert stats == [NOTHING, [0, 0, 0, 1]]

    def test_half_on_it_is_a_false_positive(self):
        truth_ids = draw('001111')
        pred_ids = draw('111100')
        stats = count(truth_ids, [segment(1, 1, 4)], pred_ids, {1: 0})
        assert stats == [[0, 0, 1, 0], [0, 0, 0, 1]]

    def test_image_of_void_alone(self):
        pred_ids = draw('1122')
        stats = count(np.zeros_like(pred_ids), [], pred_ids, {1: 0, 2: 1})
        assert stats == [NOTHING, NOTHING]

    def test_image_of_void_alone_and_no_prediction(self):
        ids = draw('0000')
        assert count(ids, [], ids, {}) == [NOTHING, NOTHING]

    def test_pixels_of_no_listed_segment_are_not_void(self):
        # As panopticapi: 9 is in the image alone, so it is neither missed nor ignored.
        truth_ids = draw('9999')
        pred_ids = draw('1111')
        assert count(truth_ids, [], pred_ids, {1: 0}) == [[0, 0, 1, 0], NOTHING]


class TestCrowd:
    def test_is_never_matched_nor_missed(self):
        ids = draw('1111')
        truth = [segment(1, 0, 4, iscrowd=1)]
        assert count(ids, truth, ids, {1: 0}) == [NOTHING, NOTHING]
        assert count(ids, truth, 0 * ids, {}) == [NOTHING, NOTHING]

    def test_half_on_it_is_a_false_positive(self):
        truth_ids = draw('1122')
        truth = [segment(1, 0, 2, iscrowd=1), segment(2, 1, 2)]
        stats = count(truth_ids, truth, draw('5555'), {5: 0})
        assert stats == [[0, 0, 1, 0], [0, 0, 0, 1]]

    def test_crowd_of_another_class_is_not_ignored(self):
        ids = draw('1111')
        truth = [segment(1, 0, 4, iscrowd=1)]
        assert count(ids, truth, ids, {1: 1}) == [NOTHING, [0, 0, 1, 0]]

    def test_adds_up_with_void(self):
        truth_ids = draw('110022')
        truth = [segment(1, 0, 2, iscrowd=1), segment(2, 1, 2)]
        # 2 pixels of crowd, 1 of void, 1 of class 1: 3 of 4 are ignored
        stats = count(truth_ids, truth, draw('330030'), {3: 0})
        assert stats == [NOTHING, [0, 0, 0, 1]]

    def test_is_in_the_union_of_others(self):
        # 3 common pixels, 1 on the crowd: 3 of 4.
        truth_ids = draw('11122')
        truth = [segment(1, 0, 3), segment(2, 0, 2, iscrowd=1)]
        stats = count(truth_ids, truth, draw('33330'), {3: 0})
        assert stats == [[3 / 4, 1, 0, 0], NOTHING]

    def test_the_last_of_a_class_counts(self):
        truth_ids = draw('1112')
        truth = [segment(1, 0, 3, iscrowd=1), segment(2, 0, 1, iscrowd=1)]
        stats = count(truth_ids, truth, draw('3333'), {3: 0})
        assert stats == [[0, 0, 1, 0], NOTHING]


def test_sizes_differ():
    with pytest.raises(ValueError, match=r'pred_ids has the size \(1, 3\).*\(1, 4\)'):
        count_matches(draw('0000'), [], draw('000'), {}, 1)


class TestAverage:
    def test_by_hand(self):
        stats = np.array([[1.5, 2, 1, 1], [0, 0, 0, 3], [0, 0, 0, 0]])
        # class 0: SQ 3/4, RQ 2/3, PQ 1/2; class 1: 0; class 2 does not occur
        assert average(stats) == pytest.approx(
            dict(pq=1 / 4, sq=3 / 8, rq=1 / 3, n=2), abs=1e-15
        )

    def test_only_false_positives_occur(self):
        assert average(np.array([[0.0, 0, 1, 0]])) == dict(pq=0, sq=0, rq=0, n=1)

    def test_of_nothing(self):
        result = average(np.zeros((2, 4)))
        assert result.pop('n') == 0
        assert np.isnan(list(result.values())).all()
