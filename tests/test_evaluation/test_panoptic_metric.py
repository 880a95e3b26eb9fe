"""PanopticQuality on drawn files in COCO's layout, as mmengine's Evaluator calls it."""

import copy
import json
import math
import socket
from pathlib import Path

import mmcv
import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from mmdet.evaluation import INSTANCE_OFFSET
from mmdet.registry import METRICS
from mmdet.structures import DetDataSample
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger
from mmengine.structures import PixelData

from mmgcnl.structures import id2rgb, read_segment_ids

PERSON, CAR, SKY, VOID = range(4)
META = dict(classes=('person', 'car', 'sky'))
# COCO's ids have gaps.
CATEGORIES = [
    dict(id=1, name='person', isthing=1),
    dict(id=3, name='car', isthing=1),
    dict(id=187, name='sky', isthing=0),
]
BIG = 70000  # an id that needs all three bytes
# Images: the truth as an id per pixel, and (id, label, iscrowd) of each segment.
TRUTH = {
    10: ([[5, 5, 5, 5], [BIG, BIG, 0, 0]], [(5, PERSON, 0), (BIG, SKY, 0)]),
    20: ([[7, 7, 8, 8], [9, 9, 8, 8]], [(7, CAR, 0), (8, PERSON, 1), (9, SKY, 0)]),
    30: ([[0, 0, 0, 0], [0, 0, 0, 0]], []),
}
# Predictions: label + 1000 * instance per pixel, as mmdet's heads have them.
P1, P2, C1 = PERSON + INSTANCE_OFFSET, PERSON + 2 * INSTANCE_OFFSET, CAR + INSTANCE_OFFSET
PREDICTIONS = {
    10: [[P1, P1, P1, P2], [SKY, SKY, SKY, VOID]],
    20: [[P1, P1, P2, P2], [VOID, VOID, VOID, VOID]],
    30: [[C1, C1, SKY, SKY], [C1, C1, SKY, SKY]],
}
# Image 10: person 3/4 and a second one too many; sky 2/2, its third pixel is void.
# Image 20: a person in the car's place, a person in the crowd, car and sky are missed.
# Image 30 counts nothing. So person: IoU 3/4, TP 1, FP 2; car: FN 1; sky: IoU 1, TP 1, FN 1
PERSON_PQ, SKY_PQ = 0.75 / 2, 1 / 1.5
EXPECTED = dict(
    PQ=(PERSON_PQ + SKY_PQ) / 3,
    SQ=(0.75 + 1) / 3,
    RQ=(1 / 2 + 1 / 1.5) / 3,
    PQ_th=PERSON_PQ / 2,
    SQ_th=0.75 / 2,
    RQ_th=0.5 / 2,
    PQ_st=SKY_PQ,
    SQ_st=1.0,
    RQ_st=1 / 1.5,
)
EXPECTED = {f'coco_panoptic/{name}': 100 * value for name, value in EXPECTED.items()}


def write_truth(root: Path, truth: dict) -> dict:
    """Write files in COCO's layout and return the arguments of the metric."""
    images, annotations = [], []
    for image_id, (ids, segments) in truth.items():
        ids = np.array(ids)
        height, width = ids.shape
        images.append(
            dict(id=image_id, file_name=f'{image_id}.jpg', height=height, width=width)
        )
        mmcv.imwrite(id2rgb(ids)[..., ::-1].copy(), str(root / 'png' / f'{image_id}.png'))
        infos = []
        for id_, label, iscrowd in segments:
            area = int((ids == id_).sum())
            category = CATEGORIES[label]['id']
            infos.append(dict(id=id_, category_id=category, area=area, iscrowd=iscrowd))
        annotations.append(
            dict(image_id=image_id, file_name=f'{image_id}.png', segments_info=infos)
        )
    content = dict(images=images, annotations=annotations, categories=CATEGORIES)
    (root / 'panoptic.json').write_text(json.dumps(content))
    return dict(ann_file=str(root / 'panoptic.json'), seg_prefix=str(root / 'png'))


def build(meta: dict = META, **kwargs) -> Evaluator:
    evaluator = Evaluator([METRICS.build(dict(type='PanopticQuality', **kwargs))])
    evaluator.dataset_meta = meta
    return evaluator


def sample(image_id: int, prediction: list, **extra) -> DetDataSample:
    sem_seg = torch.tensor(prediction, dtype=torch.int32)[None]
    data_sample = DetDataSample(metainfo=dict(img_id=image_id))
    data_sample.pred_panoptic_seg = PixelData(metainfo=extra, sem_seg=sem_seg)
    return data_sample


def evaluate(predictions: dict, evaluator: Evaluator) -> dict:
    for image_id, prediction in predictions.items():
        evaluator.process([sample(image_id, prediction)])
    return evaluator.evaluate(len(predictions))


@pytest.fixture
def files(tmp_path) -> dict:
    return write_truth(tmp_path, TRUTH)


def test_by_hand(files):
    result = evaluate(PREDICTIONS, build(**files))
    assert result == pytest.approx(EXPECTED, abs=1e-9)


def test_one_batch_is_as_one_by_one(files):
    evaluator = build(**files)
    evaluator.process([sample(*item) for item in PREDICTIONS.items()])
    assert evaluator.evaluate(3) == pytest.approx(EXPECTED, abs=1e-9)


def test_second_validation_starts_from_nothing(files):
    """A validation after every epoch starts from nothing."""
    evaluator = build(**files)
    evaluate({10: [[SKY] * 4] * 2, 20: [[P1] * 4] * 2}, evaluator)
    assert evaluate(PREDICTIONS, evaluator) == pytest.approx(EXPECTED, abs=1e-9)


def test_truth_of_void_alone_has_no_average(files):
    result = evaluate({30: PREDICTIONS[30]}, build(**files))
    assert len(result) == 9 and all(map(math.isnan, result.values()))


def test_ignore_index_of_the_prediction(files):
    """Open-vocabulary heads of mmdet have another one than the number of classes."""
    evaluator = build(**files)
    for image_id, prediction in PREDICTIONS.items():
        values = np.where(np.array(prediction) == VOID, 255, prediction).tolist()
        evaluator.process([sample(image_id, values, ignore_index=255)])
    assert evaluator.evaluate(3) == pytest.approx(EXPECTED, abs=1e-9)


def test_classwise(files, caplog):
    evaluator = build(**files, classwise=True)
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    try:
        evaluate(PREDICTIONS, evaluator)
    finally:
        logger.removeHandler(caplog.handler)
    assert '| person   | 37.500 | 75.000  | 50.000 |' in caplog.text


def worker(rank: int, port: int, files: dict, results: Path) -> None:
    torch.set_num_threads(1)  # OpenMP's threads do not survive the fork
    torch.distributed.init_process_group(
        'gloo', init_method=f'tcp://127.0.0.1:{port}', rank=rank, world_size=2
    )
    evaluator = build(**files)
    # As DefaultSampler shares 3 images out: the first one fills up the last round.
    for image_id in [*TRUTH, 10][rank::2]:
        evaluator.process([sample(image_id, PREDICTIONS[image_id])])
    metrics = evaluator.evaluate(3)
    (results / f'{rank}.json').write_text(json.dumps(metrics))
    torch.distributed.destroy_process_group()


def test_two_processes(files, tmp_path):
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    mp.start_processes(worker, (port, files, tmp_path), nprocs=2, start_method='fork')
    for rank in range(2):
        metrics = json.loads((tmp_path / f'{rank}.json').read_text())
        assert metrics == pytest.approx(EXPECTED, abs=1e-9)


class TestFiles:
    @pytest.mark.parametrize('format_only', [False, True])
    def test_read_back_they_are_the_prediction(self, files, tmp_path, format_only):
        if format_only:  # as for test-dev, without annotations
            content = json.loads(Path(files['ann_file']).read_text())
            content.pop('annotations')
            Path(files['ann_file']).write_text(json.dumps(content))
            files.pop('seg_prefix')
        prefix = tmp_path / 'out' / 'test'
        evaluator = build(**files, format_only=format_only, outfile_prefix=str(prefix))
        metrics = evaluate(PREDICTIONS, evaluator)
        assert metrics == ({} if format_only else pytest.approx(EXPECTED, abs=1e-9))
        written = json.loads((tmp_path / 'out' / 'test.panoptic.json').read_text())
        assert [item['image_id'] for item in written['annotations']] == list(TRUTH)
        category_of = [category['id'] for category in CATEGORIES]
        for item in written['annotations']:
            assert item['file_name'] == f'{item["image_id"]}.png'
            ids = read_segment_ids(str(prefix) + f'.panoptic/{item["file_name"]}')
            category = {s['id']: s['category_id'] for s in item['segments_info']}
            assert set(np.unique(ids)) - {0} == set(category)
            prediction = np.array(PREDICTIONS[item['image_id']])
            for id_, value in zip(ids.flat, prediction.flat):
                if value == VOID:
                    assert id_ == 0
                else:
                    assert category[id_] == category_of[value % INSTANCE_OFFSET]
            # Instances of a class stay apart.
            assert len(np.unique(ids)) == len(np.unique(prediction))

    def test_format_only_without_a_place(self, files):
        with pytest.raises(ValueError, match='set outfile_prefix'):
            build(**files, format_only=True)


class TestFaults:
    def test_no_seg_prefix(self, files):
        with pytest.raises(ValueError, match='seg_prefix=None: set the folder'):
            build(ann_file=files['ann_file'])

    @pytest.mark.parametrize('classes', [('person', 'sky', 'car'), ('person', 'sky')])
    def test_other_classes(self, files, classes):
        with pytest.raises(ValueError, match='3 categories, person, car, sky, but.*sky'):
            build(dict(classes=classes), **files)

    def test_other_ann_file(self, files):
        with pytest.raises(ValueError, match='panoptic.json has no image 99: give'):
            evaluate({99: PREDICTIONS[10]}, build(**files))

    def test_prediction_of_another_size(self, files):
        with pytest.raises(ValueError, match=r'png/10.png: pred_ids has the size \(1, 4\)'):
            evaluate({10: [[VOID] * 4]}, build(**files))

    def test_broken_png(self, files):
        path = Path(files['seg_prefix']) / '10.png'
        path.write_bytes(b'no image')
        with pytest.raises(ValueError, match=f'{path} does not decode'):
            evaluate(PREDICTIONS, build(**files))


def random_case(rng: np.random.Generator) -> tuple[dict, dict]:
    """Truth and predictions that overlap, with void, crowds and wrong labels."""
    truth, predictions = {}, {}
    for image_id in range(1, 9):
        cells = rng.integers(0, 7, (4, 4))
        ids = cells.repeat(8, 0).repeat(8, 1)
        segments = [
            (int(id_), int(rng.integers(3)), int(rng.random() < 0.3))
            for id_ in np.unique(ids)
            if id_
        ]
        truth[image_id] = (ids, segments)
        moved = np.roll(ids, tuple(rng.integers(-3, 4, 2)), (0, 1))
        label = {id_: label for id_, label, _ in segments}
        wrong = {id_: int(rng.integers(4)) for id_ in range(7)}
        values = [
            label[id_] + id_ * INSTANCE_OFFSET
            if id_ in label and wrong[id_] != VOID
            else wrong[id_]
            for id_ in moved.flat
        ]
        predictions[image_id] = np.array(values).reshape(ids.shape).tolist()
    return truth, predictions


def test_equals_panopticapi(tmp_path):
    evaluation = pytest.importorskip(
        'panopticapi.evaluation',
        reason='panopticapi is not installed, so that PQ is not compared with its own',
    )
    truth, predictions = random_case(np.random.default_rng(0))
    files = write_truth(tmp_path, truth)
    prefix = str(tmp_path / 'out')
    result = evaluate(predictions, build(**files, outfile_prefix=prefix))
    categories = {category['id']: category for category in CATEGORIES}
    matched = list(
        zip(
            json.loads(Path(files['ann_file']).read_text())['annotations'],
            json.loads(Path(f'{prefix}.panoptic.json').read_text())['annotations'],
        )
    )
    stat = evaluation.pq_compute_single_core(
        0, copy.deepcopy(matched), files['seg_prefix'], f'{prefix}.panoptic', categories
    )
    for suffix, isthing in (('', None), ('_th', True), ('_st', False)):
        expected, _ = stat.pq_average(categories, isthing=isthing)
        for name in ('pq', 'sq', 'rq'):
            value = result[f'coco_panoptic/{name.upper()}{suffix}']
            assert value == pytest.approx(100 * expected[name], abs=1e-9)
    # The case is worth comparing.
    assert 10 < result['coco_panoptic/PQ'] < 90
    assert sum(s.fp for s in stat.pq_per_cat.values()) > 5
    assert sum(s.fn for s in stat.pq_per_cat.values()) > 5
