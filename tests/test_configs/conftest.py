"""Drawn miniatures of every data set, in the layouts that the published ones have."""

import json
from pathlib import Path

import numpy as np
import pytest
from mmdet.datasets import CocoPanopticDataset
from PIL import Image

SIZE = (64, 48)
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
