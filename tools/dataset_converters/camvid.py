"""Convert a downloaded CamVid into the layout that CamVidDataset reads.

SOURCE has one of these layouts:
  train/ trainannot/ ...     label maps of 11 classes, named as the images (SegNet's);
                             if they have a palette, its colours mean nothing
  train/ train_labels/ ...   colour labels NAME_L.png
  701_StillsRaw_full/ LabeledApproved_full/ train.txt ...
                             the original: colour labels NAME_L.png, and for each split
                             a list with an image per line, such as SegNet's
... stands for the same with val and test. The 32 colours become SegNet's 11 classes.
"""

import argparse
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import mmengine
import numpy as np
from PIL import Image

SPLITS = ('train', 'val', 'test')
UNLABELLED = 11
# For each value, from 0 on: the original classes that it combines, with their colours.
CLASSES = [
    dict(Sky=(128, 128, 128)),
    dict(
        Archway=(192, 0, 128),
        Bridge=(0, 128, 64),
        Building=(128, 0, 0),
        Tunnel=(64, 0, 64),
        Wall=(64, 192, 0),
    ),
    dict(Column_Pole=(192, 192, 128), TrafficCone=(0, 0, 64)),
    dict(Road=(128, 64, 128), LaneMkgsDriv=(128, 0, 192), LaneMkgsNonDriv=(192, 0, 64)),
    dict(Sidewalk=(0, 0, 192), ParkingBlock=(64, 192, 128), RoadShoulder=(128, 128, 192)),
    dict(Tree=(128, 128, 0), VegetationMisc=(192, 192, 0)),
    dict(SignSymbol=(192, 128, 128), Misc_Text=(128, 128, 64), TrafficLight=(0, 64, 64)),
    dict(Fence=(64, 64, 128)),
    dict(
        Car=(64, 0, 128),
        SUVPickupTruck=(64, 128, 192),
        Truck_Bus=(192, 128, 192),
        Train=(192, 64, 128),
        OtherMoving=(128, 64, 64),
    ),
    dict(
        Pedestrian=(64, 64, 0),
        Child=(192, 128, 64),
        CartLuggagePram=(64, 0, 192),
        Animal=(64, 128, 64),
    ),
    dict(Bicyclist=(0, 128, 192), MotorcycleScooter=(192, 0, 192)),
    dict(Void=(0, 0, 0)),
]
VALUE_OF = {
    colour: value for value, colours in enumerate(CLASSES) for colour in colours.values()
}


def find_files(folder: Path) -> dict[str, Path]:
    """Find the images of a folder by their names without suffix.

    Raises:
        ValueError: There is no such folder, or two images have one name.
    """
    if not folder.is_dir():
        raise ValueError(f'no such folder: {folder}')
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in Image.registered_extensions():
            continue
        if path.stem in files:
            raise ValueError(f'{files[path.stem]} and {path} have one name; remove one')
        files[path.stem] = path
    return files


def find_pairs(source: Path, split: str) -> list[tuple[Path, Path]]:
    """Find the pairs of image and label file of a split, sorted by name.

    Raises:
        ValueError: ``source`` has none of the layouts, or a file is missing.
    """
    stills = source / '701_StillsRaw_full'
    listed = source / f'{split}.txt'
    if (source / f'{split}annot').is_dir():
        images, labels, suffix = source / split, source / f'{split}annot', ''
    elif (source / f'{split}_labels').is_dir():
        images, labels, suffix = source / split, source / f'{split}_labels', '_L'
    elif stills.is_dir():
        images, labels, suffix = stills, source / 'LabeledApproved_full', '_L'
        if not listed.is_file():
            raise ValueError(f'{stills} is not split, and there is no {listed}')
    else:
        raise ValueError(
            f'{source} has none of {split}annot/, {split}_labels/ and {stills.name}/'
        )
    found, truths = find_files(images), find_files(labels)
    if images == stills:
        lines = listed.read_text().splitlines()
        names = [Path(line.split()[0]).stem for line in lines if line.strip()]
    else:
        names = sorted(found)
    if not names:
        raise ValueError(f'no image of {split} in {images}')
    for folder, files, end in ((images, found, ''), (labels, truths, suffix)):
        missing = [name + end for name in names if name + end not in files]
        if missing:
            raise ValueError(f'no such file: {folder / missing[0]}.png')
    pairs = [(found[name], truths[name + suffix]) for name in names]
    suffixes = {image.suffix.lower() for image, _ in pairs}
    if len(suffixes) > 1 or not suffixes <= {'.png', '.jpg', '.jpeg'}:
        raise ValueError(
            f'{images} has images that end with {", ".join(sorted(suffixes))}: convert '
            'them to .png, or all of them to .jpg'
        )
    return pairs


def read_labels(path: Path, numbered: bool = False) -> np.ndarray:
    """Read a label map, or colour labels as a label map.

    Args:
        path: A PNG in gray, in colours, or with a palette.
        numbered: Whether a palette is only for display: the labels are the numbers of its
            colours, not the colours.

    Returns:
        (H, W), uint8, values 0 to 11. Pixels with none of the 32 colours, of which the
        original has a few, are unlabelled.

    Raises:
        ValueError: A label map has other values, or more than 1 % of the pixels have none
            of the 32 colours.
    """
    image = Image.open(path)
    if image.mode == 'L' or image.mode == 'P' and numbered:
        values = np.array(image)
        if values.max() > UNLABELLED:
            raise ValueError(
                f'{path}: label value {values.max()}, expected 0 to {UNLABELLED}'
            )
        return values
    pixels = np.array(image.convert('RGB'))
    colours, index = np.unique(pixels.reshape(-1, 3), axis=0, return_inverse=True)
    value_of = [VALUE_OF.get(tuple(c.tolist()), UNLABELLED) for c in colours]
    unknown = np.array([tuple(c.tolist()) not in VALUE_OF for c in colours])
    if unknown[index].mean() > 0.01:
        raise ValueError(
            f"{path}: not CamVid's colours, for example {colours[unknown][0].tolist()}"
        )
    return np.array(value_of, np.uint8)[index].reshape(pixels.shape[:2])


def convert(pair: tuple[Path, Path], images: Path, annotations: Path) -> None:
    """Copy an image into one folder and write its label map into the other."""
    image, label = pair
    try:
        labels = read_labels(label, numbered=label.parent.name.endswith('annot'))
        with Image.open(image) as opened:
            opened.load()
            size = opened.size
    except (OSError, SyntaxError) as error:  # PIL raises SyntaxError for a broken PNG
        raise ValueError(f'{image} or {label} does not decode: {error}') from error
    if size != labels.shape[::-1]:
        raise ValueError(
            f'{label} is {labels.shape[1]}x{labels.shape[0]}, '
            f'but {image} is {size[0]}x{size[1]}'
        )
    # CamVidDataset's suffixes, which are in lower case.
    suffix = '.png' if image.suffix.lower() == '.png' else '.jpg'
    shutil.copyfile(image, images / f'{image.stem}{suffix}')
    Image.fromarray(labels).save(annotations / f'{image.stem}.png')


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('source', type=Path, help='the folder that was downloaded')
    parser.add_argument(
        'destination',
        type=Path,
        nargs='?',
        default=Path('data/camvid'),
        help='where images/ and annotations/ go (%(default)s)',
    )
    args = parser.parse_args(argv)
    if not args.source.is_dir():
        parser.error(f'no such folder: {args.source}')
    try:
        pairs = {split: find_pairs(args.source, split) for split in SPLITS}
        for split in SPLITS:
            images = args.destination / 'images' / split
            annotations = args.destination / 'annotations' / split
            for folder in (images, annotations):
                folder.mkdir(parents=True, exist_ok=True)
            print(f'{split}: {len(pairs[split])} images')
            mmengine.track_progress(
                partial(convert, images=images, annotations=annotations), pairs[split]
            )
            print()
    except ValueError as error:
        parser.error(str(error))
    if args.destination != parser.get_default('destination'):
        print(f'For the configs to find it: export CAMVID_ROOT={args.destination}')


if __name__ == '__main__':
    main()
