"""Draw the first picture of the README: where a model of a study attends on photographs.

python .dev_scripts/photographs.py STUDY_DIR ANNOTATIONS IMAGES --out JPG

The rule that chooses:

- Images of COCO whose license lets anyone change and share them (CC BY, CC BY-SA, works of
  the US government), wider than high.
- The queries of an image: of its largest object, and of the largest of another category,
  the innermost pixel. Objects of 5 to 30 % of the image count.
- The model: `both`, seed 0. The images: of those in ANNOTATIONS (80 of val2017 were at
  hand), the two on which its attention differs most between the queries, by the cosine
  distance, mean of the heads. Of each, the three heads that differ most.

A first version, written down when the trainings had just begun, took the mean of the heads
before the distance, objects from 1 %, and one image. It was changed after a look at its
pictures, where heads that attend to different things hid each other. So that the choice
misleads nobody, the distances over all images are printed, with those of the plain block.
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
from PIL import Image
from pycocotools.coco import COCO

from mmgcnl.analysis import Query, attention_at, draw_attention
from mmgcnl.apis import image_pipeline, init_model

ROWS = ('both', 'nl')  # of the study; the first one is drawn
#: Of COCO: CC BY, CC BY-SA, and works of the US government.
LICENSES = (4, 5, 8)
SHARE = (0.05, 0.3)  # of the image, that an object covers
IMAGES = 2
HEADS = 3
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


def distances(attention: np.ndarray) -> np.ndarray:
    """The cosine distance of the attention of two queries (2, heads, H, W), by head."""
    a, b = attention.reshape(*attention.shape[:2], -1)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return 1 - (a * b).sum(1) / norms


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('study_dir', type=Path, help='work dir of the study `natural`')
    parser.add_argument('annotations', type=Path, help='instances_*.json of COCO')
    parser.add_argument('images', type=Path, help='the folder of its images')
    parser.add_argument('--out', type=Path, required=True, metavar='JPG')
    args = parser.parse_args()

    models = {}
    for row in ROWS:
        folder = args.study_dir / row / 'seed0'
        (config,) = folder.glob('*.py')
        cfg = Config.fromfile(config)
        model = init_model(cfg, find_latest_checkpoint(str(folder)))
        models[row] = model, image_pipeline(cfg)
    coco = COCO(args.annotations)
    chosen = list(find_images(coco))
    if len(chosen) < IMAGES:
        parser.error(
            f'{args.annotations}: the rule allows only {len(chosen)} of its images'
        )
    found: dict[str, list[np.ndarray]] = {row: [] for row in ROWS}
    for image, queries in track_iter_progress(chosen):
        for row, (model, pipeline) in models.items():
            path = str(args.images / image['file_name'])
            found[row].append(distances(attention_at(model, pipeline, path, queries)[0]))
    means = {row: np.mean(found[row], axis=1) for row in ROWS}

    pictures = []
    for i in np.argsort(-means[ROWS[0]])[:IMAGES]:
        image, queries = chosen[i]
        path = args.images / image['file_name']
        maps, _ = attention_at(*models[ROWS[0]], str(path), queries)
        maps /= maps.mean((2, 3), keepdims=True)
        heads = np.argsort(-found[ROWS[0]][i])[:HEADS]
        rows = [
            Query(query, {f'head {head + 1}': of_query[head] for head in heads})
            for query, of_query in zip(queries, maps)
        ]
        draw_attention(mmcv.imread(path, channel_order='rgb'), rows, args.out, scale=SCALE)
        pictures.append(Image.open(args.out).convert('RGB'))
        print(f'{image["file_name"]}: license {image["license"]}, {image["flickr_url"]}')
    height = sum(picture.height for picture in pictures)
    together = Image.new('RGB', (pictures[0].width, height))
    for number, picture in enumerate(pictures):
        together.paste(picture, (0, sum(p.height for p in pictures[:number])))
    together.save(args.out, quality=80)
    for row, values in means.items():
        print(f'{row}: distance {values.mean():.2f}, mean of {len(values)} images')


if __name__ == '__main__':
    main()
