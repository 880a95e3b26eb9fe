"""Convert Pascal Context's published annotations to mmseg's order of the 59 classes.

ANNOTATIONS and LABELS are one of these pairs; the first one is the smaller download:
  59_context_labels/  59_labels.txt  PNGs with the 59 classes
  trainval/           labels.txt     .mat files with 459 classes; all but 59 of them
                                     become background
The two number the classes differently from each other and from mmseg, and some names
differ, so that classes are matched by name. The split is that of VOC 2010, 4998 + 5105
images. The tool writes, into VOC2010, SegmentationClassContext/NAME.png, with 0 for
background and 1 to 59 for the classes of mmseg's PascalContextDataset59, and
ImageSets/SegmentationContext/.
"""

import argparse
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import mmengine
import numpy as np
from mmseg.datasets import PascalContextDataset59
from PIL import Image
from scipy.io import loadmat

SPLITS = ('train', 'val')
CLASSES = ('background', *PascalContextDataset59.METAINFO['classes'])
# Names in 59_labels.txt, and the names in labels.txt and mmseg.
SYNONYMS = dict(diningtable='table', bedcloth='bedclothes', clothes='cloth')


def read_label_list(path: Path, others_are_background: bool) -> np.ndarray:
    """Read the published list of classes, lines such as '11: dining table'.

    Args:
        path: The list.
        others_are_background: Whether names outside of the 59 are background, or an
            error.

    Returns:
        For each number its index in :data:`CLASSES`, int16; -1 for numbers that are not
        in the list. 0 is background even if it is not in the list.

    Raises:
        ValueError: There is no such file; a line, a name or a number is not as expected;
            or one of the 59 classes is missing.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f'{path} is no list of classes: {error}') from error
    names: dict[int, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        match = re.fullmatch(r'\s*(\d+)\s*[:\s]\s*(\S.*)', line)
        if match is None:
            raise ValueError(
                f"{path}, line {number}: {line!r}, expected 'number: name of the class'"
            )
        value, name = int(match[1]), match[2].replace(' ', '').lower()
        if value in names:
            raise ValueError(f'{path}, line {number}: {value} is there twice')
        names[value] = SYNONYMS.get(name, name)
    names.setdefault(0, 'background')
    known = [name for name in names.values() if name in CLASSES]
    missing = sorted(set(CLASSES) - set(known))
    unknown = sorted(set(names.values()) - set(CLASSES))
    if missing or len(known) > len(set(known)):
        twice = sorted({name for name in known if known.count(name) > 1})
        faults = [f'lacks {", ".join(missing)}'] * bool(missing)
        faults += [f'has {", ".join(twice)} twice'] * bool(twice)
        raise ValueError(
            f'{path} is not the list that was published with the annotations: it '
            f'{" and ".join(faults)}'
            + f' (unknown: {", ".join(unknown[:5])})'
            * bool(unknown)
        )
    if unknown and not others_are_background:
        raise ValueError(f'{path}: unknown class {", ".join(unknown)}')
    table = np.full(max(names) + 1, -1, np.int16)
    for value, name in names.items():
        table[value] = CLASSES.index(name) if name in CLASSES else 0
    return table


def read_labels(path: Path) -> np.ndarray:
    """Read the numbers (H, W) of a PNG, or of the variable LabelMap in a .mat file.

    Raises:
        ValueError: The file does not decode or holds something else.
    """
    try:
        if path.suffix == '.mat':
            labels = loadmat(path)['LabelMap']
        else:
            with Image.open(path) as image:
                labels = np.array(image)
    # PIL raises SyntaxError for a broken PNG, scipy raises many kinds of errors.
    except Exception as error:
        raise ValueError(f'{path} does not decode: {error!r}') from error
    if labels.ndim != 2 or labels.dtype.kind not in 'ui':
        raise ValueError(
            f'{path} is not a label map: shape {labels.shape}, type {labels.dtype}'
        )
    return labels


def convert(
    name: str, voc: Path, annotations: Path, suffix: str, table: np.ndarray
) -> None:
    """Write the label map of one image."""
    path = annotations / f'{name}{suffix}'
    labels = read_labels(path)
    wrong = np.setdiff1d(labels, np.flatnonzero(table >= 0)).tolist()
    if wrong:
        raise ValueError(f'{path}: label value {wrong} is not in the list of classes')
    image = voc / 'JPEGImages' / f'{name}.jpg'
    try:
        with Image.open(image) as opened:
            size = opened.size
    except OSError as error:
        raise ValueError(f'{image} does not decode: {error}') from error
    if size != labels.shape[::-1]:
        raise ValueError(
            f'{path} is {labels.shape[1]}x{labels.shape[0]}, '
            f'but {image} is {size[0]}x{size[1]}'
        )
    written = Image.fromarray(table[labels].astype(np.uint8))
    written.save(voc / 'SegmentationClassContext' / f'{name}.png')


def find_names(voc: Path, annotations: Path, suffix: str) -> dict[str, list[str]]:
    """Find the names of the images of each split.

    Raises:
        ValueError: VOC 2010's lists, or files that they list, are missing.
    """
    names = {}
    for split in SPLITS:
        listed = voc / 'ImageSets' / 'Main' / f'{split}.txt'
        if not listed.is_file():
            raise ValueError(f'no such file: {listed}; give the folder VOC2010, not {voc}')
        names[split] = listed.read_text().split()
    paths = [
        path
        for name in sum(names.values(), [])
        for path in (annotations / f'{name}{suffix}', voc / 'JPEGImages' / f'{name}.jpg')
    ]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise ValueError(
            f'{len(missing)} files are missing, the first one is {missing[0]}; check '
            'that the archives are unpacked completely'
        )
    return names


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'voc', type=Path, metavar='VOC2010', help='the folder with JPEGImages/'
    )
    parser.add_argument('annotations', type=Path, metavar='ANNOTATIONS')
    parser.add_argument('labels', type=Path, metavar='LABELS')
    args = parser.parse_args(argv)
    for folder in (args.voc, args.annotations):
        if not folder.is_dir():
            parser.error(f'no such folder: {folder}')
    suffixes = {path.suffix for path in args.annotations.iterdir()} & {'.png', '.mat'}
    if len(suffixes) != 1:
        found = 'both .png and .mat files' if suffixes else 'neither .png nor .mat files'
        parser.error(
            f'{args.annotations} has {found}: give the folder of the label maps, with one '
            'kind of file'
        )
    (suffix,) = suffixes
    try:
        table = read_label_list(args.labels, others_are_background=suffix == '.mat')
        names = find_names(args.voc, args.annotations, suffix)
        for folder in ('SegmentationClassContext', 'ImageSets/SegmentationContext'):
            (args.voc / folder).mkdir(exist_ok=True)
        for split in SPLITS:
            print(f'{split}: {len(names[split])} images')
            one = partial(
                convert,
                voc=args.voc,
                annotations=args.annotations,
                suffix=suffix,
                table=table,
            )
            mmengine.track_progress(one, names[split])
            print()
            listed = args.voc / 'ImageSets' / 'SegmentationContext' / f'{split}.txt'
            listed.write_text('\n'.join(names[split]) + '\n')
    except ValueError as error:
        parser.error(str(error))
    if args.voc != Path('data/VOCdevkit/VOC2010'):
        print(f'For the configs to find it: export PASCAL_CONTEXT_ROOT={args.voc}')


if __name__ == '__main__':
    main()
