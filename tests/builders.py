"""Miniature data, configs and models that several tests draw, and calls of the tools.

Everything random has a fixed seed.
"""

import importlib.util
import inspect
import json
import pickle
import socket
import sys
from collections.abc import Mapping
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType
from typing import Any

import mmcv
import numpy as np
import pytest
import torch
from mmdet.datasets import CocoDataset, CocoPanopticDataset
from mmengine import registry
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.utils import ManagerMixin
from PIL import Image
from torch import nn

from mmgcnl.apis import build_model
from mmgcnl.structures import id2rgb

ROOT = Path(__file__).parents[1]
CUSTOM_IMPORTS = dict(imports=['mmgcnl'], allow_failed_imports=False)


# --- tools -----------------------------------------------------------------------------


def forget_instances() -> None:
    """Forget loggers, visualizers and message hubs, which mmengine keeps by name.

    A second run in the same process would otherwise write into the folder of the first.
    """
    managers = [ManagerMixin]
    for manager in managers:
        managers += manager.__subclasses__()
        manager._instance_dict.clear()


def skip_without_classes() -> None:
    """Skip a test whose config has a class as a value.

    OpenMMLab's mmengine cannot log such a config, whoever runs it.
    """
    try:
        _ = Config(dict(type=Config)).pretty_text
    except SyntaxError:
        pytest.skip('this mmengine cannot print a class in a config')


def free_port() -> int:
    """Find a port that nothing listens on."""
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def load_tool(name: str) -> ModuleType:
    """Import tools/<name>.py, or a script beside that folder: ../FOLDER/name."""
    path = ROOT / 'tools' / f'{name}.py'
    spec = importlib.util.spec_from_file_location(f'{path.stem}_tool', path)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool


def call_tool(name: str, *arguments: object) -> None:
    """Call main() of tools/<name>.py in this process, as if the process were new."""
    tool = load_tool(name)
    forget_instances()
    tool.main([str(argument) for argument in arguments])


def fork_contenders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the processes of a benchmark be copies of this one, which import nothing.

    Give them one thread: those of this process are not in a copy. That they can be started
    as usual is seen from what they do being picklable.
    """
    fork = get_context('fork')

    class Context:
        Pipe = fork.Pipe

        def Process(self, target: Any, args: tuple, daemon: bool) -> Any:
            pickle.dumps(args[1:])
            return fork.Process(target=target, args=args, daemon=daemon)

    monkeypatch.setattr('mmgcnl.analysis.benchmark.get_context', lambda method: Context())


# --- configs ---------------------------------------------------------------------------


def write_config(path: Path, settings: Mapping[str, Any], base: str = '') -> Path:
    """Write settings as a config file, which inherits ``base`` if given."""
    lines = [f'_base_ = {base!r}'] * bool(base)
    lines += [f'{name} = {value!r}' for name, value in settings.items()]
    path.write_text('\n'.join(lines) + '\n')
    return path


def training_settings() -> dict[str, Any]:
    """Settings of a training for two iterations, the same for every task."""
    return dict(
        custom_imports=CUSTOM_IMPORTS,
        env_cfg=dict(dist_cfg=dict(backend='nccl')),
        log_level='WARNING',
        randomness=dict(seed=0),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9)),
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=2, val_interval=1000),
        val_cfg=dict(),
        test_cfg=dict(),
        auto_scale_lr=dict(base_batch_size=16),
        log_processor=dict(by_epoch=False),
    )


def _hooks(library: str) -> dict[str, Any]:
    return dict(
        visualization=dict(type=f'{library}VisualizationHook'),
        checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1),
        logger=dict(type='LoggerHook', interval=1),
    )


def _loader(dataset: dict, batch_size: int = 1, training: bool = False) -> dict[str, Any]:
    sampler = dict(type='InfiniteSampler' if training else 'DefaultSampler')
    return dict(
        batch_size=batch_size,
        num_workers=0,
        sampler=dict(sampler, shuffle=training),
        dataset=dataset,
    )


def write_segmentor(
    path: Path,
    root: Path,
    backbone: Mapping[str, Any] = {},
    decode_head: Mapping[str, Any] | None = None,
) -> Path:
    """Write the config of a segmentor on the squares in ``root``.

    Args:
        path: The file.
        root: Folder that :func:`draw_squares` filled.
        backbone: Settings of the backbone to add or to change.
        decode_head: Type of the head and its own settings. Default: a GCNLHead without
            dropout.
    """
    norm_cfg = dict(type='SyncBN')
    head = decode_head or dict(type='GCNLHead', block=dict(attn_drop_rate=0.0))
    dataset = dict(
        type='BaseSegDataset',
        data_root=str(root),
        data_prefix=dict(img_path='images', seg_map_path='labels'),
        img_suffix='.png',
        seg_map_suffix='.png',
        metainfo=dict(classes=('ground', 'square'), palette=[[0, 0, 0], [255, 0, 0]]),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations'),
            dict(type='PackSegInputs'),
        ],
    )
    settings = dict(
        default_scope='mmseg',
        norm_cfg=norm_cfg,
        model=dict(
            type='EncoderDecoder',
            data_preprocessor=dict(
                type='SegDataPreProcessor', size=(32, 32), mean=[128.0] * 3, std=[64.0] * 3
            ),
            backbone=dict(
                type='ResNetV1c',
                depth=18,
                base_channels=8,
                stem_channels=8,
                norm_cfg=norm_cfg,
                norm_eval=True,
                init_cfg=dict(type='Pretrained', checkpoint='open-mmlab://resnet18_v1c'),
                **backbone,
            ),
            decode_head=dict(
                in_channels=64,
                in_index=3,
                channels=16,
                dropout_ratio=0,
                num_classes=2,
                norm_cfg=None,
                **head,
            ),
            test_cfg=dict(mode='whole'),
        ),
        train_dataloader=_loader(dataset, 2, training=True),
        val_dataloader=_loader(dataset),
        test_dataloader=_loader(dataset),
        val_evaluator=dict(type='IoUMetric'),
        test_evaluator=dict(type='IoUMetric'),
        visualizer=dict(
            type='SegLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')]
        ),
        default_hooks=_hooks('Seg'),
        tta_model=dict(type='SegTTAModel'),
        tta_pipeline=[
            dict(type='LoadImageFromFile'),
            dict(
                type='TestTimeAug',
                transforms=[
                    [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)],
                    [dict(type='LoadAnnotations')],
                    [dict(type='PackSegInputs')],
                ],
            ),
        ],
    )
    return write_config(path, {**settings, **training_settings()})


def write_detector(path: Path, root: Path, scale: tuple[int, int] = (64, 64)) -> Path:
    """Write the config of a RetinaNet with EBFPN on the squares in ``root``.

    Args:
        path: The file.
        root: Folder that :func:`draw_squares` filled.
        scale: Size that the images are resized to.
    """
    dataset = dict(
        type='CocoDataset',
        data_root=str(root),
        ann_file='boxes.json',
        data_prefix=dict(img='images'),
        metainfo=dict(classes=('square',), palette=[(255, 0, 0)]),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations', with_bbox=True),
            dict(type='Resize', scale=scale),
            dict(type='PackDetInputs'),
        ],
    )
    tested = dict(dataset, test_mode=True)
    evaluator = dict(type='CocoMetric', ann_file=f'{root}/boxes.json', metric='bbox')
    settings = dict(
        default_scope='mmdet',
        model=dict(
            backbone=dict(
                depth=18,
                base_channels=8,
                init_cfg=dict(checkpoint='torchvision://resnet18'),
            ),
            neck=[
                dict(
                    type='FPN',
                    in_channels=[8, 16, 32, 64],
                    out_channels=16,
                    start_level=1,
                    add_extra_convs='on_input',
                    num_outs=5,
                ),
                dict(type='EBFPN', in_channels=16, num_levels=5),
            ],
            bbox_head=dict(
                num_classes=1, in_channels=16, feat_channels=16, stacked_convs=1
            ),
            test_cfg=dict(score_thr=0.0),
        ),
        train_dataloader=_loader(dataset, training=True),
        val_dataloader=_loader(tested),
        test_dataloader=_loader(tested),
        val_evaluator=evaluator,
        test_evaluator=evaluator,
        visualizer=dict(
            type='DetLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')]
        ),
        default_hooks=_hooks('Det'),
    )
    base = 'mmdet::_base_/models/retinanet_r50_fpn.py'
    return write_config(path, {**settings, **training_settings()}, base)


REGISTRIES = (
    registry.DATA_SAMPLERS,
    registry.DATASETS,
    registry.HOOKS,
    registry.LOOPS,
    registry.METRICS,
    registry.MODELS,
    registry.OPTIMIZERS,
    registry.TASK_UTILS,
    registry.TRANSFORMS,
    registry.VISBACKENDS,
    registry.VISUALIZERS,
)


class _Name:
    """A name that is written into a config as it is, without quotes."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


def write_new_style(config: Path) -> Path:
    """Write a config once more in mmengine's new style, as NAME_new.py.

    Its types are imported classes, there is no ``default_scope``, and importing EBFPN
    or GCNLHead loads the plugin. Types that no registry of classes has stay strings.
    """
    cfg = Config.fromfile(config)
    init_default_scope(cfg.default_scope)
    imports = set()

    def convert(node: Any, key: str = '') -> Any:
        if isinstance(node, (list, tuple)):
            return type(node)(convert(child) for child in node)
        if not isinstance(node, dict):
            return node
        found = {k: convert(v, k) for k, v in node.items() if k != '_scope_'}
        # As in mmdet's own configs, which have these as strings.
        if 'type' in node and key not in ('norm_cfg', 'init_cfg', 'nms'):
            for place in REGISTRIES:
                with place.switch_scope_and_registry(None) as own:
                    kind = own.get(node['type'])
                if inspect.isclass(kind):
                    module, _, file = kind.__module__.rpartition('.')
                    if getattr(sys.modules[module], kind.__name__, None) is not kind:
                        module += f'.{file}'
                    imports.add(f'from {module} import {kind.__name__}')
                    found['type'] = _Name(kind.__name__)
                    break
        return found

    settings = convert(cfg.to_dict())
    settings['default_scope'] = None
    del settings['custom_imports']
    path = config.with_name(f'{config.stem}_new.py')
    write_config(path, settings)
    path.write_text('\n'.join(sorted(imports)) + '\n' + path.read_text())
    return path


NAMES = ('cat', 'dog', 'grass')
COLORS = [(255, 0, 0), (0, 0, 255), (0, 255, 0)]


def write_inference_model(
    folder: Path, task: str, backbone: Mapping[str, Any] = {}
) -> tuple[Path, str]:
    """Write a config for inference, and random weights for it.

    Args:
        folder: Where they are written.
        task: 'semantic', 'instance' or 'panoptic'. The classes are :data:`NAMES`, for
            instances the first two.
        backbone: Settings of the segmentor's backbone to add.

    Returns:
        Paths of the config and of the weights.
    """
    load = dict(
        semantic=dict(type='LoadAnnotations'),
        instance=dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
        panoptic=dict(type='LoadPanopticSegments'),
    )[task]
    meta: dict[str, Any] = dict(classes=NAMES[: 2 if task == 'instance' else 3])
    meta['palette'] = COLORS
    if task == 'panoptic':
        meta.update(thing_classes=NAMES[:2], stuff_classes=NAMES[2:])
    kind = 'Seg' if task == 'semantic' else 'Det'
    settings = dict(
        custom_imports=CUSTOM_IMPORTS,
        default_scope=f'mm{kind.lower()}',
        model=_segmentor(backbone) if task == 'semantic' else _mask_rcnn(task),
        visualizer=dict(type=f'{kind}LocalVisualizer'),
        test_dataloader=dict(
            dataset=dict(
                metainfo=meta,
                pipeline=[
                    dict(type='LoadImageFromFile'),
                    dict(type='Resize', scale=(64, 64), keep_ratio=True),
                    load,
                    dict(type=f'Pack{kind}Inputs'),
                ],
            )
        ),
    )
    base = '' if task == 'semantic' else 'mmdet::_base_/models/mask-rcnn_r50_fpn.py'
    config = write_config(folder / f'{task}.py', settings, base)
    weights = str(folder / f'{task}.pth')
    torch.save(build_model(Config.fromfile(config)).state_dict(), weights)
    return config, weights


def _segmentor(backbone: Mapping[str, Any]) -> dict[str, Any]:
    return dict(
        type='EncoderDecoder',
        data_preprocessor=dict(
            type='SegDataPreProcessor',
            bgr_to_rgb=True,
            mean=[128.0] * 3,
            std=[64.0] * 3,
        ),
        backbone=dict(type='ProbeBackbone', channels=(8, 8, 8), **backbone),
        decode_head=dict(
            type='GCNLHead',
            in_channels=8,
            in_index=0,
            channels=8,
            block=dict(num_heads=2),
            num_classes=3,
            norm_cfg=None,
        ),
        test_cfg=dict(mode='whole'),
    )


def _mask_rcnn(task: str) -> dict[str, Any]:
    """Mask R-CNN with two classes, or Panoptic FPN with two things and a stuff class."""
    model: dict[str, Any] = dict(
        backbone=dict(depth=18, base_channels=8, init_cfg=None),
        neck=[
            dict(type='FPN', in_channels=[8, 16, 32, 64], out_channels=16, num_outs=5),
            dict(type='EBFPN', in_channels=16, num_levels=5),
        ],
        rpn_head=dict(in_channels=16, feat_channels=16),
        roi_head=dict(
            bbox_roi_extractor=dict(out_channels=16),
            mask_roi_extractor=dict(out_channels=16),
            bbox_head=dict(in_channels=16, fc_out_channels=16, num_classes=2),
            mask_head=dict(
                num_convs=1, in_channels=16, conv_out_channels=16, num_classes=2
            ),
        ),
        test_cfg=dict(
            rpn=dict(nms_pre=20, max_per_img=20), rcnn=dict(score_thr=0.0, max_per_img=3)
        ),
    )
    if task == 'panoptic':
        classes = dict(num_things_classes=2, num_stuff_classes=1)
        model.update(
            type='PanopticFPN',
            semantic_head=dict(
                type='PanopticFPNHead',
                in_channels=16,
                inner_channels=8,
                start_level=0,
                end_level=4,
                norm_cfg=dict(type='GN', num_groups=2),
                conv_cfg=None,
                loss_seg=dict(type='CrossEntropyLoss'),
                **classes,
            ),
            panoptic_fusion_head=dict(type='HeuristicFusionHead', **classes),
        )
        model['test_cfg']['panoptic'] = dict(mask_overlap=0.5, stuff_area_limit=0)
    return model


def save_random_weights(config: Path, **options: Any) -> Path:
    """Save random weights for a config, with which its block adds something.

    Args:
        config: The config.
        **options: Settings to change in it, such as ``{'model.neck': ...}``.

    Returns:
        Path of the checkpoint, next to the config.
    """
    cfg = Config.fromfile(config)
    cfg.merge_from_dict(options)
    init_default_scope(cfg.default_scope)
    model = build_model(cfg)
    for parameter in model.parameters():
        if parameter.dim() > 1:  # including the block's output layer, which starts at zero
            nn.init.xavier_normal_(parameter)
    path = config.with_suffix('.pth')
    torch.save(dict(state_dict=model.state_dict(), meta={}), path)
    return path


# --- data ------------------------------------------------------------------------------


def write_logs(folder: Path) -> None:
    """Write the logs of two trainings, of the later one with an evaluation in between."""
    lines = {
        '20260101_000000': [dict(loss=9.0, step=10)],
        '20260102_000000': [
            dict(loss=2.0, step=10),
            dict(aAcc=50.0, step=10),
            dict(loss=1.0, step=20),
        ],
    }
    for name, entries in lines.items():
        path = folder / name / 'vis_data' / 'scalars.json'
        path.parent.mkdir(parents=True)
        path.write_text(''.join(json.dumps(entry) + '\n' for entry in entries))


def draw_squares(root: Path) -> None:
    """Draw 5 images (32, 32) with one bright square each, label maps and boxes."""
    rng = np.random.default_rng(0)
    coco = dict(images=[], annotations=[], categories=[dict(id=1, name='square')])
    for i in range(1, 6):
        x, y = (int(v) for v in rng.integers(0, 16, 2))
        label = np.zeros((32, 32), np.uint8)
        label[y : y + 16, x : x + 16] = 1
        image = rng.integers(0, 100, (32, 32, 3)) + 100 * label[..., None]
        mmcv.imwrite(image.astype(np.uint8), str(root / f'images/{i}.png'))
        mmcv.imwrite(label, str(root / f'labels/{i}.png'))
        coco['images'].append(dict(id=i, file_name=f'{i}.png', width=32, height=32))
        coco['annotations'].append(
            dict(
                id=i,
                image_id=i,
                category_id=1,
                bbox=[x, y, 16, 16],
                area=256,
                iscrowd=0,
            )
        )
    (root / 'boxes.json').write_text(json.dumps(coco))


def draw_images(folder: Path) -> None:
    """Draw three images of noise, of different sizes."""
    rng = np.random.default_rng(0)
    for i, shape in enumerate(((40, 60, 3), (60, 40, 3), (50, 50, 3))):
        pixels = rng.integers(0, 256, shape, np.uint8)
        mmcv.imwrite(pixels, str(folder / f'{i}.png'))


SIZE = (64, 48)
NUMBER = {'train': 4, 'val': 2, 'test': 2}


def draw_every_data_set(root: Path) -> None:
    """Draw camvid, probe, ade, pascal_context, cityscapes and coco into a folder."""
    for split in NUMBER:
        for name in ('camvid', 'probe'):
            folders = root / name / 'images' / split, root / name / 'annotations' / split
            draw_segmentation(split, '{}.png', '{}.png', 7, *folders)
    for split in ('train', 'val'):
        for name in ('msrc21', 'voc_animals'):
            folders = root / name / 'images' / split, root / name / 'annotations' / split
            draw_segmentation(split, '{}.jpg', '{}.png', 9, *folders)
        draw_boxes(root / f'voc_animals/annotations/instances_{split}.json', split)
    for split, folder in (('train', 'training'), ('val', 'validation')):
        folders = root / 'ade/images' / folder, root / 'ade/annotations' / folder
        draw_segmentation(split, '{}.jpg', '{}.png', 151, *folders)
    for split in NUMBER:
        folders = (
            root / 'cityscapes' / folder / split / 'aachen'
            for folder in ('leftImg8bit', 'gtFine')
        )
        names = (
            'aachen_00000{}_000019_leftImg8bit.png',
            'aachen_00000{}_000019_gtFine_labelTrainIds.png',
        )
        draw_segmentation(split, *names, 19, *folders)
    voc = root / 'pascal_context'
    for split in ('train', 'val'):
        folders = voc / 'JPEGImages', voc / 'SegmentationClassContext'
        draw_segmentation(split, split + '_{}.jpg', split + '_{}.png', 59, *folders)
        listed = voc / f'ImageSets/SegmentationContext/{split}.txt'
        listed.parent.mkdir(parents=True, exist_ok=True)
        listed.write_text(''.join(f'{split}_{i}\n' for i in range(NUMBER[split])))
    draw_coco(root / 'coco')


def draw_segmentation(
    split: str, image: str, label: str, classes: int, images: Path, labels: Path
) -> None:
    rng = np.random.default_rng(0)
    for folder in (images, labels):
        folder.mkdir(parents=True, exist_ok=True)
    for i in range(NUMBER[split]):
        values = rng.integers(0, classes, (6, 8), np.uint8).repeat(8, 0).repeat(8, 1)
        Image.fromarray(values[..., None].repeat(3, 2)).save(images / image.format(i))
        Image.fromarray(values).save(labels / label.format(i))


def draw_boxes(path: Path, split: str) -> None:
    """A box of a dog in every image that draw_segmentation has drawn."""
    images = [
        dict(id=i + 1, file_name=f'{i}.jpg', width=64, height=48)
        for i in range(NUMBER[split])
    ]
    box = dict(category_id=1, bbox=[8, 8, 40, 32], area=1280, iscrowd=0)
    animals = ('dog', 'cat', 'sheep', 'horse', 'cow')
    content = dict(
        images=images,
        annotations=[dict(id=i['id'], image_id=i['id'], **box) for i in images],
        categories=[dict(id=i, name=name) for i, name in enumerate(animals, 1)],
    )
    path.write_text(json.dumps(content))


def draw_coco(root: Path) -> None:
    """A person on grass in every image, as instances and as panoptic segments."""
    names = CocoPanopticDataset.METAINFO['classes']
    categories = [
        dict(id=i, name=name, isthing=int(i <= 80)) for i, name in enumerate(names, 1)
    ]
    grass = names.index('grass-merged') + 1
    (root / 'annotations').mkdir(parents=True)
    for split in NUMBER:
        (root / f'{split}2017').mkdir()
        segments = root / f'annotations/panoptic_{split}2017'
        segments.mkdir()
        images, instances, panoptic = [], [], []
        for i in range(1, NUMBER[split] + 1):
            pixels = np.full((SIZE[1], SIZE[0], 3), 60 * i, np.uint8)
            pixels[8:40, 8:48] = 255 - 60 * i
            Image.fromarray(pixels).save(root / f'{split}2017/{i:012}.jpg')
            ids = np.zeros_like(pixels)
            ids[..., 0] = 2
            ids[8:40, 8:48, 0] = 1
            Image.fromarray(ids).save(segments / f'{i:012}.png')
            name = dict(file_name=f'{i:012}.jpg', width=SIZE[0], height=SIZE[1])
            images.append(dict(id=i, **name))
            person = dict(category_id=1, bbox=[8, 8, 40, 32], area=1280, iscrowd=0)
            outline = [[8, 8, 48, 8, 48, 40, 8, 40]]
            instances.append(dict(id=i, image_id=i, segmentation=outline, **person))
            ground = dict(category_id=grass, bbox=[0, 0, 64, 48], area=1792, iscrowd=0)
            panoptic.append(
                dict(
                    image_id=i,
                    file_name=f'{i:012}.png',
                    segments_info=[dict(id=1, **person), dict(id=2, **ground)],
                )
            )
        files = {f'panoptic_{split}2017': (panoptic, categories)}
        files[f'instances_{split}2017'] = (instances, categories[:80])
        if split == 'test':  # nobody has its annotations
            files = {'image_info_test-dev2017': (None, categories[:80])}
        for name, (annotations, classes) in files.items():
            content = dict(images=images, annotations=annotations, categories=classes)
            if annotations is None:
                del content['annotations']
            (root / f'annotations/{name}.json').write_text(json.dumps(content))


def draw_camvid(root: Path) -> None:
    """Draw three images a split, 48x32, in CamVidDataset's layout."""
    rng = np.random.default_rng(0)
    for split in ('train', 'val', 'test'):
        images = root / 'images' / split
        annotations = root / 'annotations' / split
        images.mkdir(parents=True)
        annotations.mkdir(parents=True)
        for i in range(3):
            pixels = rng.integers(0, 256, (32, 48, 3), np.uint8)
            labels = rng.integers(0, 12, (32, 48), np.uint8)
            Image.fromarray(pixels).save(images / f'{i}.png')
            Image.fromarray(labels).save(annotations / f'{i}.png')


def draw_coco_instances(root: Path) -> None:
    """Draw two images a split, 64x48, with a person each, in COCO's layout."""
    names = CocoDataset.METAINFO['classes']
    categories = [dict(id=i, name=name) for i, name in enumerate(names, 1)]
    (root / 'annotations').mkdir(parents=True)
    for split in ('train2017', 'val2017'):
        folder = root / split
        folder.mkdir()
        images, annotations = [], []
        for i in (1, 2):
            Image.new('RGB', (64, 48), (40 * i, 0, 0)).save(folder / f'{i}.jpg')
            images.append(dict(id=i, file_name=f'{i}.jpg', width=64, height=48))
            box = dict(bbox=[8, 8, 32, 24], area=768, iscrowd=0)
            corners = [[8, 8, 40, 8, 40, 32, 8, 32]]
            annotations.append(
                dict(box, id=i, image_id=i, category_id=1, segmentation=corners)
            )
        (root / 'annotations' / f'instances_{split}.json').write_text(
            json.dumps(
                dict(
                    images=images,
                    annotations=annotations,
                    categories=categories,
                )
            )
        )


def draw_coco_panoptic(root: Path) -> None:
    """Draw an image a split, 60x40, in COCO's layout: two people, a crowd, sky, void."""
    meta = CocoPanopticDataset.METAINFO
    person, car, sky = map(meta['classes'].index, ('person', 'car', 'sky-other-merged'))
    ids = np.zeros((40, 60), int)
    boxes = {
        1000: (person, 0, (0, 0, 20, 40)),
        2: (person, 0, (20, 0, 20, 20)),
        70000: (car, 1, (20, 20, 20, 20)),
        255: (sky, 0, (40, 0, 20, 20)),
    }
    segments = []
    for id_, (label, iscrowd, (x, y, w, h)) in boxes.items():
        ids[y : y + h, x : x + w] = id_
        segments.append(
            dict(
                id=id_,
                category_id=label + 1,
                bbox=[x, y, w, h],
                area=w * h,
                iscrowd=iscrowd,
            )
        )
    categories = [
        dict(id=label + 1, name=name, isthing=int(name in meta['thing_classes']))
        for label, name in enumerate(meta['classes'])
    ]
    for split in ('train2017', 'val2017'):
        (root / split).mkdir(parents=True)
        Image.new('RGB', (60, 40)).save(root / split / '1.jpg')
        folder = root / 'annotations' / f'panoptic_{split}'
        folder.mkdir(parents=True)
        Image.fromarray(id2rgb(ids)).save(folder / '1.png')
        content = dict(
            images=[dict(id=1, file_name='1.jpg', width=60, height=40)],
            annotations=[dict(image_id=1, file_name='1.png', segments_info=segments)],
            categories=categories,
        )
        folder.with_suffix('.json').write_text(json.dumps(content))
