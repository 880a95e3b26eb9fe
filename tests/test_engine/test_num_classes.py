"""Heads whose number of classes is not that of the data set."""

from types import SimpleNamespace

import pytest
import torch
from mmdet.datasets import CocoPanopticDataset
from mmdet.models import BaseMOTModel, FusedSemanticHead
from mmengine.config import Config
from torch import nn

from mmgcnl.apis import build_model
from mmgcnl.engine import ConfigError
from mmgcnl.engine.num_classes import NumClassesHook, compare_num_classes
from tests.builders import (
    draw_squares,
    write_detector,
    write_inference_model,
    write_segmentor,
)


def build(tmp_path, task, **options):
    cfg = Config.fromfile(write_inference_model(tmp_path, task)[0])
    cfg.merge_from_dict(options)
    return build_model(cfg)


def options_of(faults):
    return [fault.split(' is ')[0] for fault in faults]


def test_semantic(tmp_path):
    model = build(tmp_path, 'semantic')
    assert compare_num_classes(model, dict(classes='abc')) != []  # a text, no tuple
    assert compare_num_classes(model, dict(classes=('a', 'b', 'c'))) == []
    (fault,) = compare_num_classes(model, dict(classes=('a', 'b')))
    assert fault == (
        'model.decode_head.num_classes is 3, but the data set has 2 classes: set '
        '--cfg-options model.decode_head.num_classes=2, or metainfo.classes of '
        'the data sets'
    )
    assert compare_num_classes(model, {}) == []


def test_heads_of_a_mask_rcnn(tmp_path):
    model = build(tmp_path, 'instance', **{'model.roi_head.mask_head.num_classes': 5})
    assert compare_num_classes(model, dict(classes=('a', 'b'))) != []
    assert options_of(compare_num_classes(model, dict(classes=('a', 'b')))) == [
        'model.roi_head.mask_head.num_classes'
    ]


def test_panoptic(tmp_path):
    """The box head has the things, the semantic head the stuff and one class more."""
    model = build(tmp_path, 'panoptic')
    meta = dict(classes=('a', 'b', 'c'), thing_classes=('a', 'b'), stuff_classes=('c',))
    assert compare_num_classes(model, meta) == []
    meta = CocoPanopticDataset.METAINFO
    faults = compare_num_classes(model, meta)
    assert options_of(faults) == [
        'model.roi_head.bbox_head.num_classes',
        'model.roi_head.mask_head.num_classes',
        'model.semantic_head.num_things_classes',
        'model.semantic_head.num_stuff_classes',
        'model.panoptic_fusion_head.num_things_classes',
        'model.panoptic_fusion_head.num_stuff_classes',
    ]
    assert 'is 2, but the data set has 80 thing classes' in faults[2]


def test_options_change_what_they_name(tmp_path):
    """Following the remedies of all faults leaves none, also inside a wrapper."""
    model = build(tmp_path, 'instance')
    wrapped = nn.Module()
    wrapped.module = model
    meta = dict(classes=tuple('abcde'))
    faults = compare_num_classes(wrapped, meta)
    assert len(faults) == 2
    remedies = [fault.split('--cfg-options ')[1].split(',')[0] for fault in faults]
    options = dict(remedy.split('=') for remedy in remedies)
    options = {name: int(number) for name, number in options.items()}
    assert compare_num_classes(build(tmp_path, 'instance', **options), meta) == []


@pytest.mark.parametrize('loop', ['train', 'val', 'test'])
@pytest.mark.parametrize('write', [write_segmentor, write_detector])
def test_stops_at_the_start(tmp_path, write, loop):
    from mmgcnl.engine import Runner

    draw_squares(tmp_path / 'squares')
    cfg = Config.fromfile(write(tmp_path / 'config.py', tmp_path / 'squares'))
    cfg.work_dir = str(tmp_path / 'work')
    cfg.model.backbone.init_cfg = None
    head = 'decode_head' if write is write_segmentor else 'bbox_head'
    cfg.model[head].num_classes = 7
    with pytest.raises(ValueError) as error:
        getattr(Runner.from_cfg(cfg), loop)()
    assert str(error.value).startswith(f'{loop}_dataloader: model.{head}.num_classes is 7')
    assert not list((tmp_path / 'work').glob('*.pth'))


@pytest.mark.parametrize(
    ('config', 'classes'),
    [
        ('mmdet::rpn/rpn_r50_fpn_1x_coco.py', 80),
        ('mmdet::guided_anchoring/ga-rpn_r50-caffe_fpn_1x_coco.py', 80),
        ('mmseg::mask2former/mask2former_r50_8xb2-90k_cityscapes-512x1024.py', 19),
    ],
)
def test_models_of_the_libraries(tmp_path, config, classes):
    (tmp_path / 'config.py').write_text(f'_base_ = {config!r}\n')
    with torch.device('meta'):
        model = build_model(Config.fromfile(tmp_path / 'config.py'))
    metainfo = dict(classes=tuple(map(str, range(classes))))
    assert compare_num_classes(model, metainfo) == []


def test_can_be_turned_off(tmp_path):
    model = build(tmp_path, 'instance')
    data = SimpleNamespace(dataset=SimpleNamespace(metainfo=dict(classes=tuple('abcde'))))
    runner = SimpleNamespace(cfg=dict(), model=model, val_dataloader=data)
    with pytest.raises(
        ConfigError, match='turn this check off with check_num_classes=False'
    ):
        NumClassesHook().before_val(runner)
    runner.cfg['check_num_classes'] = False
    NumClassesHook().before_val(runner)


def test_heads_and_trackers_that_differ_by_design():
    class SCNetSemanticHead(FusedSemanticHead):  # as mmdet's
        pass

    class Tracker(BaseMOTModel):
        def __init__(self, detector):
            super().__init__()
            self.detector = detector

        def loss(self, *args): ...
        def predict(self, *args): ...

    head = SCNetSemanticHead(num_ins=1, fusion_level=0, num_classes=183)
    model = nn.ModuleDict(dict(semantic_head=head))
    assert compare_num_classes(model, dict(classes=('a', 'b'))) == []
    box_head = nn.Module()
    box_head.num_classes = 1
    detector = nn.ModuleDict(dict(roi_head=nn.ModuleDict(dict(bbox_head=box_head))))
    assert compare_num_classes(detector, dict(classes=('a', 'b'))) != []
    assert compare_num_classes(Tracker(detector), dict(classes=('a', 'b'))) == []
