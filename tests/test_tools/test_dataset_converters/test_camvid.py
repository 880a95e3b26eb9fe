"""tools/dataset_converters/camvid.py, on drawn files in each published layout."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from mmgcnl.datasets import CamVidDataset

converter = SimpleNamespace(**runpy.run_path('tools/dataset_converters/camvid.py'))
SPLITS = ('train', 'val', 'test')
# 4 x 6 labels with every value, and colours of the original that mean them.
LABELS = np.arange(24, dtype=np.uint8).reshape(4, 6) % 12
COLOURS = np.array(
    [list(converter.CLASSES[v].values())[-1] for v in LABELS.flat], np.uint8
).reshape(4, 6, 3)


def draw(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture(params=['annot', 'labels', 'original'])
def source(request, tmp_path):
    """A download of two images a split, in one of the layouts."""
    source = tmp_path / 'download'
    for split in SPLITS:
        lines = []
        for i in range(2):
            name = f'{split}_{i}'
            image = np.full((4, 6, 3), 40 * i, np.uint8)
            if request.param == 'annot':
                draw(source / split / f'{name}.png', image)
                draw(source / f'{split}annot' / f'{name}.png', LABELS)
            elif request.param == 'labels':
                draw(source / split / f'{name}.png', image)
                draw(source / f'{split}_labels' / f'{name}_L.png', COLOURS)
            else:
                draw(source / '701_StillsRaw_full' / f'{name}.png', image)
                draw(source / 'LabeledApproved_full' / f'{name}_L.png', COLOURS)
                lines.append(f'/SegNet/CamVid/{split}/{name}.png other.png\n')
                (source / f'{split}.txt').write_text(''.join(lines))
    return source


def test_every_layout(source, tmp_path):
    destination = tmp_path / 'data'
    converter.main([str(source), str(destination)])
    for split in SPLITS:
        for i in range(2):
            name = f'{split}_{i}.png'
            image = np.array(Image.open(destination / 'images' / split / name))
            labels = np.array(Image.open(destination / 'annotations' / split / name))
            assert image.shape == (4, 6, 3) and (image == 40 * i).all()
            np.testing.assert_array_equal(labels, LABELS)
    assert len(list(destination.rglob('*.png'))) == 12


def test_classes_are_those_of_the_data_set():
    assert len(converter.VALUE_OF) == 32
    palette = CamVidDataset.METAINFO['palette']
    assert len(palette) == len(CamVidDataset.METAINFO['classes']) == 11
    for colour, colours in zip(palette, converter.CLASSES):
        assert tuple(colour) in colours.values()


def fails(capsys, *args) -> str:
    with pytest.raises(SystemExit) as stop:
        converter.main([str(arg) for arg in args])
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_no_layout(tmp_path, capsys):
    assert f'{tmp_path} has none of trainannot/' in fails(capsys, tmp_path)
    assert f'no such folder: {tmp_path}/nowhere' in fails(capsys, tmp_path / 'nowhere')


@pytest.mark.parametrize('source', ['annot'], indirect=True)
class TestFaults:
    def test_missing_label_map(self, source, tmp_path, capsys):
        path = source / 'valannot' / 'val_1.png'
        path.unlink()
        assert f'no such file: {path}' in fails(capsys, source, tmp_path / 'data')
        assert not (tmp_path / 'data').exists()  # nothing half done

    def test_wrong_value(self, source, tmp_path, capsys):
        path = source / 'valannot' / 'val_1.png'
        draw(path, LABELS + 20)
        message = fails(capsys, source, tmp_path / 'data')
        assert f'{path}: label value 31, expected 0 to 11' in message

    def test_wrong_colours(self, source, tmp_path, capsys):
        path = source / 'valannot' / 'val_1.png'
        draw(path, np.full((4, 6, 3), 77, np.uint8))
        message = fails(capsys, source, tmp_path / 'data')
        assert f"{path}: not CamVid's colours, for example [77, 77, 77]" in message

    def test_wrong_size(self, source, tmp_path, capsys):
        path = source / 'valannot' / 'val_1.png'
        draw(path, LABELS[:3])
        message = fails(capsys, source, tmp_path / 'data')
        assert f'{path} is 6x3, but' in message

    @pytest.mark.parametrize('folder', ['val', 'valannot'])
    def test_broken_file(self, source, tmp_path, capsys, folder):
        path = source / folder / 'val_1.png'
        path.write_bytes(path.read_bytes()[:20])
        message = fails(capsys, source, tmp_path / 'data')
        assert str(path) in message and 'does not decode' in message


def test_a_few_pixels_of_no_class_are_unlabelled(tmp_path):
    pixels = np.full((20, 20, 3), 128, np.uint8)  # sky
    pixels[0, 0] = 77
    draw(tmp_path / 'a.png', pixels)
    labels = converter.read_labels(tmp_path / 'a.png')
    assert labels[0, 0] == 11 and (labels.flat[1:] == 0).all()


def save_with_palette(path: Path, labels: np.ndarray, palette: list[int]) -> None:
    image = Image.fromarray(labels, mode='P')
    image.putpalette(palette)
    image.save(path)


def flatten(colours) -> list[int]:
    return [value for colour in colours for value in colour]


class TestPalettes:
    # Of SegNet's download: the colour of pavement is none of CamVid's.
    SHOWN = [list(colours.values())[-1] for colours in converter.CLASSES]
    SHOWN[4] = (60, 40, 222)

    @pytest.mark.parametrize('source', ['annot'], indirect=True)
    @pytest.mark.parametrize('palette', [SHOWN, SHOWN[::-1], [(7, 7, 7)] * 12])
    def test_of_numbers_means_nothing(self, source, tmp_path, palette):
        save_with_palette(source / 'valannot/val_1.png', LABELS, flatten(palette))
        converter.main([str(source), str(tmp_path / 'data')])
        written = np.array(Image.open(tmp_path / 'data/annotations/val/val_1.png'))
        np.testing.assert_array_equal(written, LABELS)

    @pytest.mark.parametrize('source', ['annot'], indirect=True)
    def test_of_other_numbers(self, source, tmp_path, capsys):
        path = source / 'valannot/val_1.png'
        save_with_palette(path, LABELS + 1, flatten(self.SHOWN))
        assert f'{path}: label value 12' in fails(capsys, source, tmp_path / 'data')

    @pytest.mark.parametrize('source', ['labels', 'original'], indirect=True)
    def test_of_colours_means_the_classes(self, source, tmp_path):
        (path,) = source.rglob('val_1_L.png')
        colours = [list(colours.values())[-1] for colours in converter.CLASSES]
        save_with_palette(path, 11 - LABELS, flatten(colours[::-1]))
        converter.main([str(source), str(tmp_path / 'data')])
        written = np.array(Image.open(tmp_path / 'data/annotations/val/val_1.png'))
        np.testing.assert_array_equal(written, LABELS)


class TestSuffixes:
    def test_in_capitals(self, source, tmp_path):
        for path in source.rglob('val_1*.png'):
            path.rename(path.with_suffix('.PNG'))
        converter.main([str(source), str(tmp_path / 'data')])
        for folder in ('images', 'annotations'):
            names = sorted(p.name for p in (tmp_path / 'data' / folder / 'val').iterdir())
            assert names == ['val_0.png', 'val_1.png']

    @pytest.mark.parametrize('suffix', ['.jpg', '.bmp', '.tif'])
    def test_of_several_kinds(self, source, tmp_path, capsys, suffix):
        (path,) = (p for p in source.rglob('val_1.png') if 'annot' not in p.parent.name)
        Image.open(path).save(path.with_suffix(suffix))
        path.unlink()
        message = fails(capsys, source, tmp_path / 'data')
        assert f'images that end with {", ".join(sorted((suffix, ".png")))}' in message

    def test_two_images_with_one_name(self, source, tmp_path, capsys):
        (path,) = (p for p in source.rglob('val_1.png') if 'annot' not in p.parent.name)
        Image.open(path).save(path.with_suffix('.jpg'))
        message = fails(capsys, source, tmp_path / 'data')
        assert 'val_1.jpg and ' in message and 'have one name' in message
