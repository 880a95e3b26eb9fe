import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate

from mmgcnl.analysis import (
    ABLATIONS,
    DistanceRecorder,
    ablated,
    observe,
    record_contexts,
)
from mmgcnl.analysis.explorer import Change


@torch.no_grad()
def see_from_scratch(model, image, name, change):
    """Prediction and attention (n, N, M), by whole forward passes of the changed model."""
    block = model.blocks[name]
    contexts = ()
    run = lambda path: model.inferencer.model.test_step(  # noqa: E731
        pseudo_collate([model.inferencer.pipeline(path)])
    )[0]
    first = () if change.ablation == 'context mean' else (image,)
    if change.others:
        with record_contexts(block) as contexts:
            for path in (*first, *change.others):
                run(path)
    x = observe(model.inferencer.model, model.inferencer.pipeline, image).inputs[name]
    with ablated(block, change.ablation, contexts):
        weights = block.attention_weights(x)[0]
    with ablated(block, change.ablation, contexts):
        return run(image), weights


def tensors(prediction):
    if 'pred_sem_seg' in prediction:
        return prediction.seg_logits.data, prediction.pred_sem_seg.data
    found = prediction.pred_instances
    return found.bboxes, found.scores, found.labels


@pytest.mark.parametrize('ablation', ABLATIONS)
@pytest.mark.parametrize('kind', ['explorer', 'detector'])
def test_change_is_that_of_whole_forward_passes(ablation, kind, request):
    explorer = request.getfixturevalue(kind)
    model, image = explorer.models[0], explorer.images[1]
    (name,) = model.blocks
    change = Change(ablation, explorer.others(ablation, explorer.images[3]))
    before = {k: v.clone() for k, v in model.inferencer.model.state_dict().items()}
    as_it_is = tensors(model.see(image, name, Change()).prediction)
    seen = model.see(image, name, change)
    prediction, weights = see_from_scratch(model, image, name, change)
    for found, expected in zip(tensors(seen.prediction), tensors(prediction), strict=True):
        torch.testing.assert_close(found, expected)
    x, y = 20, 9
    columns = weights.shape[1] // (rows := int(weights.shape[1] ** 0.5))
    number = y * rows // 32 * columns + x * columns // 32
    np.testing.assert_allclose(seen.attention((x, y)), weights[:, number], rtol=1e-5)
    changed = tensors(seen.prediction)[0]
    assert changed.shape != as_it_is[0].shape or not torch.equal(changed, as_it_is[0])
    # The model is left as it was.
    for key, value in model.inferencer.model.state_dict().items():
        assert torch.equal(value, before[key]), key
    again = observe(model.inferencer.model, model.inferencer.pipeline, image).prediction
    for found, expected in zip(tensors(again), as_it_is, strict=True):
        assert torch.equal(found, expected)


def test_backbone_runs_once_for_an_image(explorer):
    model, image = explorer.models[1], explorer.images[4]
    (name,) = model.blocks
    model._scene.cache_clear()
    runs = []
    backbone = model.inferencer.model.backbone
    handle = backbone.layer1.register_forward_hook(lambda *_: runs.append(1))
    for change in (Change(), Change('attention uniform')):
        seen = model.see(image, name, change)
        for x in range(0, 32, 8):
            seen.attention((x, 5))
    handle.remove()
    assert len(runs) == 1


def test_distances_are_those_of_the_forward_pass(explorer):
    model, image = explorer.models[0], explorer.images[2]
    (name,) = model.blocks
    with DistanceRecorder(model.blocks) as recorder, torch.no_grad():
        batch = pseudo_collate([model.inferencer.pipeline(image)])
        model.inferencer.model.test_step(batch)
    assert model.distances(image, name) == pytest.approx(recorder.mean(name), rel=1e-5)


def test_image_that_fails_is_named(explorer, tmp_path):
    broken = tmp_path / 'broken.png'
    broken.write_bytes(b'no image')
    with pytest.raises(ValueError, match=r'ours fails on broken.png: .*broken\.png'):
        explorer.models[0].scene(str(broken))
