import os
import shutil

import mmcv
import numpy as np
import pytest

from mmgcnl.analysis.explorer import (
    Explorer,
    View,
    draw_view,
    read_view,
    write_view,
)
from mmgcnl.analysis.explorer.view import shared_scale

POINT = (20, 9)


def test_looks_are_each_model_and_its_change(explorer):
    image = explorer.images[0]
    others = explorer.others('context mean', image)
    view = explorer.view(image, POINT, ablation='context mean', others=others)
    looks = explorer.looks(view)
    # The plain block has no context to change.
    assert [look.title for look in looks] == ['ours', 'ours, context mean', 'plain']
    assert [len(look.weights) for look in looks] == [8, 8, 1]
    for look in looks:
        assert look.weights.mean(1) == pytest.approx(1, rel=1e-4)
        assert look.cells.shape == (32, 32)
        assert look.label in ('ground', 'square')
    assert looks[0].difference == ''
    assert looks[1].difference


def test_attention_is_that_of_the_block(explorer):
    """In multiples of uniform attention, with the keys under their pixels."""
    image = explorer.images[0]
    (look, _) = explorer.looks(explorer.view(image, POINT))
    x = look.model.scene(image).inputs['decode_head.block']
    weights = look.model.blocks['decode_head.block'].attention_weights(x)[0].detach()
    row, column = POINT[1] // 8, POINT[0] // 8  # cells of 8 x 8 pixels
    assert x.shape[2:] == (4, 4)
    expected = weights[:, row * 4 + column] * 16
    np.testing.assert_allclose(look.weights, expected, rtol=1e-5)
    assert look.cells[row * 8, column * 8 + 7] == row * 4 + column
    mean = expected.mean(0).sort(descending=True).values
    share = float(mean[:2].sum() / 16)
    assert look.top_tenth == pytest.approx((share, 2 / 16), rel=1e-5)


def test_truth_of_a_split(explorer):
    image = explorer.images[0]
    labels = mmcv.imread(image.replace('images', 'labels'), 'unchanged')
    for point in ((0, 0), (20, 9), (9, 20)):
        name = ('ground', 'square')[labels[point[1], point[0]]]
        assert explorer.label(image, point) == name
    assert explorer.draw_truth(image).shape == (32, 32, 3)


def test_truth_of_other_images_is_not_known(segmentors, squares):
    explorer = Explorer(segmentors[:1], [str(squares / 'images/1.png')], device='cpu')
    assert explorer.label(explorer.images[0], POINT) is None
    assert explorer.draw_truth(explorer.images[0]) is None


def test_contexts_come_from_other_images(explorer):
    images = explorer.images
    assert explorer.others('context mean', images[1]) == tuple(images)
    assert explorer.others('context swapped', images[1]) == (images[1],)
    assert explorer.others('position zeroed', images[1]) == ()


def test_truth_is_found_by_a_relative_path(explorer, monkeypatch):
    image = explorer.images[3]
    monkeypatch.chdir(os.path.dirname(image))
    name = os.path.basename(image)
    assert explorer.view(name, POINT).split == 'test'
    assert explorer.label(name, POINT) == explorer.label(image, POINT) is not None


def test_detector(detector):
    view = detector.view(detector.images[0], POINT, ablation='attention uniform')
    before, after = detector.looks(view)
    assert before.changed is None and after.changed.shape == (32, 32)
    assert after.weights == pytest.approx(1, rel=1e-4)
    assert before.cells.shape == (32, 32)
    assert detector.label(view.image, (31, 31)) in ('square', 'no object')


def test_scale_suits_the_heads(explorer):
    looks = explorer.looks(explorer.view(explorer.images[0], POINT))
    scale = shared_scale(looks)
    assert scale >= 2 and np.log2(scale) % 1 == 0
    assert scale >= np.percentile(np.concatenate([x.weights.ravel() for x in looks]), 99)


def test_picture_of_a_view_is_made_again(explorer, tmp_path):
    others = tuple(explorer.images[:2])
    options = dict(ablation='context mean', others=others, scale=8.0)
    view = explorer.view(explorer.images[0], POINT, **options)
    draw_view(explorer, view, tmp_path / 'a.png')
    write_view(view, tmp_path / 'view.json')
    again = read_view(tmp_path / 'view.json')
    assert again == view
    fresh = Explorer(again.models, [again.image], again.split, again.cfg_options, 'cpu')
    draw_view(fresh, again, tmp_path / 'b.png')
    assert (tmp_path / 'a.png').read_bytes() == (tmp_path / 'b.png').read_bytes()


def test_image_beside_the_view(explorer, tmp_path):
    shutil.copy(explorer.images[0], tmp_path / 'mine.png')
    view = View(models=explorer.sources, image='mine.png', point=POINT)
    write_view(view, tmp_path / 'view.json')
    assert read_view(tmp_path / 'view.json').image == str(tmp_path / 'mine.png')


@pytest.mark.parametrize('report', [[], {'cos_att': 0.1}, {'blocks': {'neck.1': {}}}])
def test_report_of_something_else(report, segmentors):
    with pytest.raises(
        ValueError, match=r'--distances: .* its blocks \(decode_head.block\)'
    ):
        Explorer(segmentors[:1], ['a.png'], device='cpu', distances=[report])


@pytest.mark.parametrize('text', ['[]', '{', '{"models": []}', '{"models": [{"a": 1}]}'])
def test_file_that_is_no_view(text, tmp_path):
    path = tmp_path / 'view.json'
    path.write_text(text)
    with pytest.raises(ValueError, match='is not a view that the explorer has saved'):
        read_view(path)
