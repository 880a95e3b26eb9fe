"""Five images in batches of two, on one and on two processes: the same metrics.

Two processes do not divide five, so one image is predicted twice and must count once. PQ
is in test_panoptic_metric.py, tools/test.py as a whole in test_launchers.py.
"""

import json
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from mmdet.evaluation import CocoMetric
from mmdet.structures import DetDataSample
from mmengine.dataset import DefaultSampler, pseudo_collate
from mmengine.evaluator import Evaluator
from mmengine.structures import InstanceData, PixelData
from mmseg.evaluation import IoUMetric
from mmseg.structures import SegDataSample
from torch.utils.data import DataLoader

NUMBER = 5
SHAPE = (32, 32)


def detection(index: int) -> DetDataSample:
    """The true box shifted, more in later images; in the first, with wrong ones."""
    boxes = [[4.0 + index, 4, 20 + index, 20]]
    boxes += [[0.0, 20, 10, 30], [20, 0, 30, 10]] * (index == 0)
    scores = [0.5 + 0.05 * index] + [0.9, 0.8] * (index == 0)
    found = InstanceData(
        bboxes=torch.tensor(boxes),
        scores=torch.tensor(scores),
        labels=torch.zeros(len(boxes), dtype=torch.long),
    )
    return DetDataSample(metainfo=dict(img_id=index, ori_shape=SHAPE), pred_instances=found)


def segmentation(index: int) -> SegDataSample:
    """Right in more of the later images."""
    truth = torch.zeros(1, *SHAPE, dtype=torch.long)
    truth[:, :, 16:] = 1
    predicted = truth.clone()
    predicted[:, : 4 * (NUMBER - index)] = 0
    return SegDataSample(
        gt_sem_seg=PixelData(data=truth), pred_sem_seg=PixelData(data=predicted)
    )


def write_boxes(path: Path) -> None:
    images = [dict(id=i, width=SHAPE[1], height=SHAPE[0]) for i in range(NUMBER)]
    box = dict(category_id=1, bbox=[4, 4, 16, 16], area=256, iscrowd=0)
    boxes = [dict(id=i + 1, image_id=i, **box) for i in range(NUMBER)]
    categories = [dict(id=1, name='square')]
    content = dict(images=images, annotations=boxes, categories=categories)
    path.write_text(json.dumps(content))


def evaluate(boxes: Path, indices: list[int]) -> dict[str, float]:
    """Metrics of the sampler's share, or with ``indices`` of just these images."""
    metrics = {}
    for metric, sample, classes in (
        (CocoMetric(ann_file=str(boxes), metric='bbox'), detection, ('square',)),
        (IoUMetric(iou_metrics=['mIoU']), segmentation, ('ground', 'square')),
    ):
        samples = [sample(index) for index in indices]
        evaluator = Evaluator([metric])
        evaluator.dataset_meta = dict(classes=classes)
        loader = DataLoader(
            samples,
            batch_size=2,
            sampler=DefaultSampler(samples, shuffle=False),
            collate_fn=pseudo_collate,
        )
        for batch in loader:
            evaluator.process(batch)
        metrics.update(evaluator.evaluate(len(samples)))
    return {name: float(value) for name, value in metrics.items()}


def worker(rank: int, port: int, folder: Path) -> None:
    torch.set_num_threads(1)  # OpenMP's threads do not survive the fork
    torch.distributed.init_process_group(
        'gloo', init_method=f'tcp://127.0.0.1:{port}', rank=rank, world_size=2
    )
    metrics = evaluate(folder / 'boxes.json', list(range(NUMBER)))
    (folder / f'{rank}.json').write_text(json.dumps(metrics))
    torch.distributed.destroy_process_group()


def test_ap_and_miou(tmp_path):
    write_boxes(tmp_path / 'boxes.json')
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    mp.start_processes(worker, (port, tmp_path), nprocs=2, start_method='fork')
    images = list(range(NUMBER))
    whole = evaluate(tmp_path / 'boxes.json', images)
    for rank in range(2):
        metrics = json.loads((tmp_path / f'{rank}.json').read_text())
        assert metrics == pytest.approx(whole, abs=1e-9)
    for name in ('coco/bbox_mAP', 'mIoU'):
        assert 5 < whole[name] * (100 if 'coco' in name else 1) < 95
    # An image lost or counted twice would show.
    lost = evaluate(tmp_path / 'boxes.json', images[:-1])
    twice = evaluate(tmp_path / 'boxes.json', [*images, 0])
    for other in (lost, twice):
        for name in ('coco/bbox_mAP', 'mIoU'):
            assert not np.isclose(other[name], whole[name], atol=1e-3), (name, other)
