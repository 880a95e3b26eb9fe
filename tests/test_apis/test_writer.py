"""The files that inference writes, read by COCO's own API."""

import json

import mmcv
import numpy as np
import pytest
from pycocotools.coco import COCO

from mmgcnl.apis import Inferencer
from mmgcnl.apis.writer import ResultWriter
from mmgcnl.structures import SemanticPrediction, write_labels
from tests.builders import write_inference_model


def test_instances(tmp_path, images):
    inferencer = Inferencer(*write_inference_model(tmp_path, 'instance'), device='cpu')
    results = inferencer(str(images), out_dir=tmp_path / 'out', pred_score_thr=0.0)
    coco = COCO(str(tmp_path / 'out/instances.json'))
    names = {c['id']: c['name'] for c in coco.loadCats(coco.getCatIds())}
    assert names == {1: 'cat', 2: 'dog'}
    assert [image['file_name'] for image in coco.dataset['images']] == [
        f'{i}.png' for i in range(3)
    ]
    number = 0
    for image, prediction in zip(coco.dataset['images'], results['predictions']):
        annotations = coco.loadAnns(coco.getAnnIds(image['id']))
        assert len(annotations) == len(prediction['labels'])
        for annotation, label, (x1, y1, x2, y2) in zip(
            annotations, prediction['labels'], prediction['bboxes']
        ):
            number += 1
            assert annotation['category_id'] == label + 1
            assert annotation['bbox'] == pytest.approx([x1, y1, x2 - x1, y2 - y1])
            mask = coco.annToMask(annotation)
            assert mask.shape == (image['height'], image['width'])
            assert mask.sum() == annotation['area']
    assert number
    assert len(list((tmp_path / 'out/overlays').iterdir())) == 3


def test_panoptic(tmp_path, images):
    inferencer = Inferencer(*write_inference_model(tmp_path, 'panoptic'), device='cpu')
    results = inferencer(str(images), out_dir=tmp_path / 'out')
    content = json.loads((tmp_path / 'out/panoptic.json').read_text())
    assert [c['isthing'] for c in content['categories']] == [1, 1, 0]
    assert len(results['predictions']) == len(content['annotations']) == 3
    for annotation in content['annotations']:
        rgb = mmcv.imread(str(tmp_path / 'out/panoptic' / annotation['file_name']))
        ids, areas = np.unique(rgb[..., ::-1] @ [1, 256, 65536], return_counts=True)
        found = {i: n for i, n in zip(ids.tolist(), areas.tolist()) if i}
        assert found == {s['id']: s['area'] for s in annotation['segments_info']}
        for segment in annotation['segments_info']:
            assert segment['isthing'] == (segment['category_id'] <= 2)


def test_label_maps_of_all_images_have_one_depth(tmp_path):
    writer = ResultWriter(tmp_path, dict(classes=[str(i) for i in range(300)]))
    overlay = np.zeros((2, 3, 3), np.uint8)
    for name, label in (('few', 3), ('many', 299)):
        prediction = SemanticPrediction(np.full((2, 3), label))
        path = writer.add(name, (2, 3), prediction, overlay)['sem_seg_path']
        labels = mmcv.imread(path, 'unchanged')
        assert labels.dtype == np.uint16 and (labels == label).all()


def test_label_without_a_name_does_not_wrap(tmp_path):
    write_labels(np.full((2, 3), 299), str(tmp_path / 'a.png'), num_classes=150)
    assert (mmcv.imread(str(tmp_path / 'a.png'), 'unchanged') == 299).all()
