import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def camvid_root(tmp_path: Path) -> Path:
    """Three drawn images a split, 48x32, in CamVidDataset's layout."""
    rng = np.random.default_rng(0)
    for split in ('train', 'val', 'test'):
        images = tmp_path / 'camvid' / 'images' / split
        annotations = tmp_path / 'camvid' / 'annotations' / split
        images.mkdir(parents=True)
        annotations.mkdir(parents=True)
        for i in range(3):
            pixels = rng.integers(0, 256, (32, 48, 3), np.uint8)
            labels = rng.integers(0, 12, (32, 48), np.uint8)
            Image.fromarray(pixels).save(images / f'{i}.png')
            Image.fromarray(labels).save(annotations / f'{i}.png')
    return tmp_path / 'camvid'


@pytest.fixture
def coco_root(tmp_path: Path) -> Path:
    """Two drawn images a split, 64x48, a box in each, in COCO's layout."""
    (tmp_path / 'coco' / 'annotations').mkdir(parents=True)
    for split in ('train2017', 'val2017'):
        folder = tmp_path / 'coco' / split
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
        (tmp_path / 'coco' / 'annotations' / f'instances_{split}.json').write_text(
            json.dumps(
                dict(
                    images=images,
                    annotations=annotations,
                    categories=[dict(id=1, name='person')],
                )
            )
        )
    return tmp_path / 'coco'


@pytest.fixture
def panoptic_root(tmp_path: Path) -> Path:
    """An image a split, 60x40, in COCO's layout: two people, a crowd, sky, void."""
    from mmdet.datasets import CocoPanopticDataset

    from mmgcnl.structures import id2rgb

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
    root = tmp_path / 'coco'
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
    return root


@pytest.fixture(scope='session')
def shared_data() -> Path:
    """Real images beside the checkout."""
    path = Path(__file__).parents[3] / 'shared' / 'data'
    if not path.is_dir():
        pytest.skip(f'no real images in {path}')
    return path
