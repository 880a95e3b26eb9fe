"""Drawn miniatures of every data set, and configs reduced to them."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmdet.datasets import CocoPanopticDataset
from mmengine.config import Config
from mmengine.utils import ManagerMixin
from PIL import Image

ROOT = Path(__file__).parents[2]
SIZE = (64, 48)
CROP = (48, 48)
FOLDERS = dict(
    ADE20K_ROOT='ade',
    CAMVID_ROOT='camvid',
    CITYSCAPES_ROOT='cityscapes',
    COCO_ROOT='coco',
    PASCAL_CONTEXT_ROOT='pascal_context',
    PROBE_ROOT='probe',
)
NUMBER = {'train': 4, 'val': 2, 'test': 2}


@pytest.fixture(scope='session')
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with camvid, probe, ade, pascal_context, cityscapes and coco."""
    root = tmp_path_factory.mktemp('drawn')
    for split in NUMBER:
        for name in ('camvid', 'probe'):
            folders = root / name / 'images' / split, root / name / 'annotations' / split
            draw_segmentation(split, '{}.png', '{}.png', 7, *folders)
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
    return root


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


@pytest.fixture
def reduced(drawn: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Config]:
    """Read a config: on the drawn data, two iterations, a narrow model, small images."""
    for variable, folder in FOLDERS.items():
        monkeypatch.setenv(variable, str(drawn / folder))

    def read(path: str) -> Config:
        cfg = Config.fromfile(ROOT / path)
        reduce(cfg)
        return cfg

    return read


@pytest.fixture
def run_tool(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Call main() of tools/<name>.py, as if in a new process."""

    def run(name: str, *arguments: object) -> None:
        spec = importlib.util.spec_from_file_location(name, ROOT / f'tools/{name}.py')
        tool = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(tool)
        managers = [ManagerMixin]
        for manager in managers:
            managers += manager.__subclasses__()
            manager._instance_dict.clear()
        tool.main([str(argument) for argument in arguments])

    monkeypatch.setenv('LOCAL_RANK', '0')
    return run


def reduce(cfg: Config) -> None:
    for split in ('train', 'val', 'test'):
        if cfg.get(f'{split}_dataloader'):
            loader = cfg[f'{split}_dataloader']
            loader.update(num_workers=0, persistent_workers=False)
            loader.batch_size = min(loader.batch_size, 2)
            reduce_pipeline(loader.dataset.pipeline)
    if 'trainval' in cfg:
        for dataset in cfg.trainval.train_dataloader.dataset.datasets:
            reduce_pipeline(dataset.pipeline)
    if 'submission' in cfg:
        reduce_pipeline(cfg.submission.test_dataloader.dataset.get('pipeline', ()))
    if 'max_epochs' in cfg.train_cfg:
        cfg.train_cfg.max_epochs = 1
    else:
        cfg.train_cfg.max_iters = 2
        if cfg.get('val_cfg'):
            cfg.train_cfg.val_interval = 2
        cfg.default_hooks.checkpoint.interval = 2
    reduce_model(cfg.model)


def reduce_pipeline(pipeline: Any) -> None:
    for transform in pipeline:
        if 'scale' in transform:
            transform.scale = (64, 64)
        if 'crop_size' in transform:
            transform.crop_size = CROP


def reduce_model(model: Any) -> None:
    backbone = model.backbone
    if 'ConvNet' in backbone.type:
        return
    backbone.init_cfg = None
    if backbone.type == 'HRNet':
        widths = [4, 8, 16, 32]
        for i in range(1, 5):
            stage = backbone.extra[f'stage{i}']
            stage.update(num_modules=1, num_blocks=(1,) * i, num_channels=tuple(widths[:i]))
    else:
        widths = [8, 16, 32, 64] if backbone.depth < 50 else [32, 64, 128, 256]
        backbone.update(base_channels=8, stem_channels=8)
    if model.type == 'EncoderDecoder':
        model.decode_head.update(in_channels=widths[-1], channels=64)
        model.data_preprocessor.size = CROP
        if model.test_cfg.mode == 'slide':
            model.test_cfg.update(crop_size=CROP, stride=(32, 32))
        return
    neck = model.neck[0] if isinstance(model.neck, list) else model.neck
    neck.in_channels = widths
    if 'roi_head' not in model:
        model.test_cfg.update(score_thr=0.0, max_per_img=5)
        return
    model.test_cfg.rcnn.update(score_thr=0.0, max_per_img=5)
    heads = model.roi_head.bbox_head
    for head in heads if isinstance(heads, list) else [heads]:
        head.fc_out_channels = 16
    if 'mask_head' in model.roi_head:
        model.roi_head.mask_head.update(num_convs=1, conv_out_channels=16)
    if 'semantic_head' in model:
        model.semantic_head.inner_channels = 32
