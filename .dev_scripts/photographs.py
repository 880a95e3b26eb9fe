"""Draw the first picture of the README: where models of a study attend on photographs.

python .dev_scripts/photographs.py STUDY_DIR ANNOTATIONS IMAGES --out PNG

The rule that chooses was written down when the trainings of these models had just begun,
after a look at models of the study `natural-selection`:

- Images of COCO whose license lets anyone change and share them (CC BY, CC BY-SA, works of
  the US government), wider than high.
- The queries of an image: of its largest object, and of the largest of another category,
  the innermost pixel. Objects of 1 to 30 % of the image count.
- The image: of those in ANNOTATIONS (80 of val2017 were at hand), the one on which the
  attention of `both`, seed 0, differs most between its queries, by the cosine distance of
  the mean of the heads.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import cv2
import mmcv
import numpy as np
from mmengine.config import Config
from mmengine.runner import find_latest_checkpoint
from mmengine.utils import track_iter_progress
from pycocotools.coco import COCO

from mmgcnl.analysis import Query, attention_at, draw_attention
from mmgcnl.apis import image_pipeline, init_model

#: Rows of the study, and what the picture calls them.
ROWS = {'nl': 'non-local', 'both': 'ours'}
#: Of COCO: CC BY, CC BY-SA, and works of the US government.
LICENSES = (4, 5, 8)
SHARE = (0.01, 0.3)  # of the image, that an object covers
SCALE = 8  # times uniform attention and more get the brightest color


def find_queries(coco: COCO, image_id: int) -> list[tuple[float, float]]:
    """The innermost pixels of the largest objects of two categories, x and y."""
    image = coco.imgs[image_id]
    area = image['height'] * image['width']
    objects = coco.loadAnns(coco.getAnnIds(image_id, iscrowd=False))
    objects = [obj for obj in objects if SHARE[0] <= obj['area'] / area <= SHARE[1]]
    largest = {obj['category_id']: obj for obj in sorted(objects, key=lambda x: x['area'])}
    chosen = sorted(largest.values(), key=lambda obj: -obj['area'])[:2]
    queries = []
    for obj in chosen:
        inside = cv2.distanceTransform(np.pad(coco.annToMask(obj), 1), cv2.DIST_L2, 5)
        y, x = np.unravel_index(inside.argmax(), inside.shape)
        queries.append((float(x - 1), float(y - 1)))
    return queries


def find_images(coco: COCO) -> Iterator[tuple[dict, list[tuple[float, float]]]]:
    """The images that may be drawn, with their queries."""
    for image in coco.dataset['images']:
        if image['license'] in LICENSES and image['width'] > image['height']:
            queries = find_queries(coco, image['id'])
            if len(queries) == 2:
                yield image, queries


def distance(attention: np.ndarray) -> float:
    """The cosine distance of the attention of two queries (2, heads, H, W)."""
    a, b = (maps.mean(0).ravel() for maps in attention)
    return 1 - a @ b / np.sqrt((a @ a) * (b @ b))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('study_dir', type=Path, help='work dir of the study `natural`')
    parser.add_argument('annotations', type=Path, help='instances_*.json of COCO')
    parser.add_argument('images', type=Path, help='the folder of its images')
    parser.add_argument('--out', type=Path, required=True, metavar='PNG')
    args = parser.parse_args()

    models = {}
    for row, name in ROWS.items():
        folder = args.study_dir / row / 'seed0'
        (config,) = folder.glob('*.py')
        cfg = Config.fromfile(config)
        model = init_model(cfg, find_latest_checkpoint(str(folder)))
        models[name] = model, image_pipeline(cfg)
    coco = COCO(args.annotations)
    best = None  # the maps of all images would not fit into memory
    for image, queries in track_iter_progress(list(find_images(coco))):
        path = str(args.images / image['file_name'])
        maps = {
            name: attention_at(model, pipeline, path, queries)[0]
            for name, (model, pipeline) in models.items()
        }
        if best is None or distance(maps['ours']) > distance(best[2]['ours']):
            best = image, queries, maps
    if best is None:
        parser.error(f'{args.annotations} has no image that the rule allows')
    image, queries, maps = best
    picture = mmcv.imread(args.images / image['file_name'], channel_order='rgb')
    rows = [
        Query(query, {name: m[i].mean(0) / m[i].mean() for name, m in maps.items()})
        for i, query in enumerate(queries)
    ]
    draw_attention(picture, rows, args.out, scale=SCALE)
    distances = {name: round(float(distance(m)), 3) for name, m in maps.items()}
    print(f'{args.out}: {image["file_name"]}, license {image["license"]}, ', end='')
    print(f'{image["flickr_url"]}, distances {distances}')


if __name__ == '__main__':
    main()
