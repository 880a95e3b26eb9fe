import json

import mmcv
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import PixelData
from pycocotools.coco import COCO

from mmgcnl.apis import Inferencer, init_model

COMMON = """
custom_imports = dict(imports=['mmgcnl'], allow_failed_imports=False)
test_dataloader = dict(dataset=dict(
    metainfo=dict(classes={classes}, palette={palette}),
    pipeline=[dict(type='LoadImageFromFile'),
              dict(type='Resize', scale=(64, 64), keep_ratio=True),
              {load}, dict(type='{pack}')]))
"""
SEGMENTOR = """
default_scope = 'mmseg'
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(type='SegDataPreProcessor', bgr_to_rgb=True,
                           mean=[128.] * 3, std=[64.] * 3),
    backbone=dict(type='ConvNet', channels=(8, 8, 8)),
    decode_head=dict(type='GCNLHead', in_channels=8, in_index=0, channels=8,
                     block=dict(num_heads=2), num_classes=3, norm_cfg=None),
    test_cfg=dict(mode='whole'))
visualizer = dict(type='SegLocalVisualizer')
"""
DETECTOR = """
_base_ = 'mmdet::_base_/models/mask-rcnn_r50_fpn.py'
default_scope = 'mmdet'
model = dict(
    {panoptic}
    backbone=dict(depth=18, base_channels=8, init_cfg=None),
    neck=[dict(type='FPN', in_channels=[8, 16, 32, 64], out_channels=16, num_outs=5),
          dict(type='EBFPN', in_channels=16, num_levels=5)],
    rpn_head=dict(in_channels=16, feat_channels=16),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=16), mask_roi_extractor=dict(out_channels=16),
        bbox_head=dict(in_channels=16, fc_out_channels=16, num_classes=2),
        mask_head=dict(num_convs=1, in_channels=16, conv_out_channels=16, num_classes=2)),
    test_cfg=dict(rpn=dict(nms_pre=20, max_per_img=20),
                  rcnn=dict(score_thr=0.0, max_per_img=3)))
visualizer = dict(type='DetLocalVisualizer')
"""
PANOPTIC = """
    type='PanopticFPN',
    semantic_head=dict(type='PanopticFPNHead', num_things_classes=2, num_stuff_classes=1,
                       in_channels=16, inner_channels=8, start_level=0, end_level=4,
                       norm_cfg=dict(type='GN', num_groups=2), conv_cfg=None,
                       loss_seg=dict(type='CrossEntropyLoss')),
    panoptic_fusion_head=dict(type='HeuristicFusionHead', num_things_classes=2,
                              num_stuff_classes=1),
"""
NAMES = ('cat', 'dog', 'grass')
COLORS = [(255, 0, 0), (0, 0, 255), (0, 255, 0)]


def write(tmp_path, task):
    """Paths of a config and of random weights for it."""
    semantic = task == 'semantic'
    panoptic = PANOPTIC if task == 'panoptic' else ''
    loads = dict(
        semantic="dict(type='LoadAnnotations')",
        instance="dict(type='LoadAnnotations', with_bbox=True, with_mask=True)",
        panoptic="dict(type='LoadPanopticSegments')",
    )
    classes = repr(NAMES[: 2 if task == 'instance' else 3])
    if task == 'panoptic':
        classes += ", thing_classes=('cat', 'dog'), stuff_classes=('grass',)"
    text = SEGMENTOR if semantic else DETECTOR.replace('{panoptic}', panoptic)
    if panoptic:
        text = text.replace(
            'max_per_img=3)',
            'max_per_img=3), panoptic=dict(mask_overlap=0.5, stuff_area_limit=0)',
        )
    text += (
        COMMON.replace('{load}', loads[task])
        .replace('{classes}', classes)
        .replace('{palette}', repr(COLORS))
        .replace('{pack}', 'PackSegInputs' if semantic else 'PackDetInputs')
    )
    config = tmp_path / f'{task}.py'
    config.write_text(text)
    cfg = Config.fromfile(config)
    init_default_scope(cfg.default_scope)
    weights = str(tmp_path / f'{task}.pth')
    torch.save(MODELS.build(cfg.model).state_dict(), weights)
    return config, weights


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / 'images'
    rng = np.random.default_rng(0)
    for i, shape in enumerate(((40, 60, 3), (60, 40, 3), (50, 50, 3))):
        pixels = rng.integers(0, 256, shape, np.uint8)
        mmcv.imwrite(pixels, str(folder / f'{i}.png'))
    return folder


@pytest.mark.parametrize('batch_size', [1, 2])
def test_semantic(tmp_path, images, batch_size):
    inferencer = Inferencer(*write(tmp_path, 'semantic'), device='cpu')
    one = mmcv.imread(str(images / '1.png'))
    alone = inferencer(one)['predictions'][0]['sem_seg']
    assert alone.shape == (60, 40)
    assert set(np.unique(alone)) <= {0, 1, 2}
    if batch_size > 1:  # of one size, as mmseg needs it
        (images / '0.png').unlink()
        (images / '2.png').unlink()
        mmcv.imwrite(one, str(images / '3.png'))
    out = tmp_path / 'out'
    results = inferencer(str(images), batch_size=batch_size, out_dir=out, return_vis=True)
    files = sorted(path.name for path in images.iterdir())
    for folder in ('labels', 'overlays'):
        assert sorted(path.name for path in (out / folder).iterdir()) == files
    number = files.index('1.png')
    path = results['predictions'][number]['sem_seg_path']
    assert (mmcv.imread(path, 'unchanged') == alone).all()
    overlay = mmcv.imread(str(out / 'overlays/1.png'))[..., ::-1]
    assert (overlay == results['visualization'][number]).all()
    assert not results['failed']


def test_goes_on_past_broken_files(tmp_path, images):
    (images / '0a.png').write_text('no image')
    inferencer = Inferencer(*write(tmp_path, 'semantic'), device='cpu')
    results = inferencer(str(images), out_dir=tmp_path / 'out')
    assert len(results['predictions']) == 3
    assert list(results['failed']) == [str(images / '0a.png')]
    assert len(list((tmp_path / 'out/labels').iterdir())) == 3


def test_inputs(tmp_path, images):
    inferencer = Inferencer(*write(tmp_path, 'semantic'), device='cpu')
    (images / 'notes.txt').write_text('no image, and not taken for one')
    every = [str(images / f'{i}.png') for i in range(3)]
    assert inferencer.find_images(str(images)) == every
    assert inferencer.find_images([str(images / '[12].png'), every[0]]) == [
        *every[1:],
        every[0],
    ]
    for missing in (images / 'x.png', images / '*.bmp'):
        with pytest.raises(FileNotFoundError, match='no image: '):
            inferencer.find_images(str(missing))
    mmcv.imwrite(np.zeros((4, 4, 3), np.uint8), str(tmp_path / 'other/0.jpg'))
    with pytest.raises(ValueError, match='would be written to the same file'):
        inferencer([str(images), str(tmp_path / 'other')], out_dir=tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_instances(tmp_path, images):
    inferencer = Inferencer(*write(tmp_path, 'instance'), device='cpu')
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
    inferencer = Inferencer(*write(tmp_path, 'panoptic'), device='cpu')
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


def test_panoptic_segments(tmp_path):
    """mmdet's ids are class + 1000 * instance, and the number of classes is void."""
    inferencer = Inferencer(*write(tmp_path, 'panoptic'), device='cpu')
    ids = torch.tensor([[[1001, 1001, 2001, 2, 3, 1000]]])
    sample = PixelData(metainfo={})
    sample = type('Sample', (dict,), dict(pred_panoptic_seg=PixelData(sem_seg=ids)))()
    sample['pred_panoptic_seg'] = sample.pred_panoptic_seg
    prediction = inferencer.postprocess([sample], [])['predictions'][0]
    segments = {s['id']: s for s in prediction['segments_info']}
    kinds = [
        (segments[i]['category_id'], segments[i]['isthing'], segments[i]['area'])
        if i
        else None
        for i in prediction['panoptic_seg'][0].tolist()
    ]
    assert kinds == [(1, 1, 2), (1, 1, 2), (1, 1, 1), (2, 0, 1), None, (0, 1, 1)]
    # two dogs, not one
    assert len(segments) == 4


def test_model_that_does_not_fit(tmp_path):
    config, weights = write(tmp_path, 'semantic')
    state = torch.load(weights)
    state['more.weight'] = state.pop('decode_head.block.key.bias')
    state['decode_head.conv_seg.bias'] = torch.zeros(9)
    torch.save(state, weights)
    with pytest.raises(ValueError) as error:
        init_model(config, weights)
    assert str(error.value) == (
        f'{weights} does not fit {config}: of its keys, 1 missing '
        '(decode_head.block.key.bias), 1 unexpected (more.weight), 1 of another shape '
        '(decode_head.conv_seg.bias); give the config that it was trained with'
    )
    with pytest.raises(FileNotFoundError, match='no such checkpoint: none.pth'):
        init_model(config, 'none.pth')
    (tmp_path / 'text.pth').write_text('no weights')
    with pytest.raises(ValueError, match='text.pth is no checkpoint'):
        init_model(config, str(tmp_path / 'text.pth'))


def test_data_parallel_weights_and_sync_bn(tmp_path):
    config, weights = write(tmp_path, 'semantic')
    config.write_text(
        config.read_text().replace(
            "type='ConvNet',", "type='ConvNet', norm_cfg=dict(type='SyncBN'),"
        )
    )
    state = {f'module.{key}': value for key, value in torch.load(weights).items()}
    torch.save(dict(state_dict=state), weights)
    model = init_model(config, weights, 'cpu')
    assert not model.training
    assert model.dataset_meta['classes'] == NAMES
    model(torch.randn(1, 3, 16, 16))
