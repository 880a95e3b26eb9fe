"""tools/dataset_converters/pascal_context.py, on drawn files in both published forms."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from mmseg.datasets import PascalContextDataset59
from PIL import Image
from scipy.io import savemat

converter = SimpleNamespace(**runpy.run_path('tools/dataset_converters/pascal_context.py'))
MMSEG = PascalContextDataset59.METAINFO['classes']
# The classes of 59_labels.txt, from 1 on: VOC's first.
PUBLISHED = (
    'aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse '
    'motorbike person pottedplant sheep sofa train tvmonitor bag bed bench book building '
    'cabinet ceiling clothes computer cup door fence floor flower food grass ground '
    'keyboard light mountain mouse curtain platform sign plate road rock shelves sidewalk '
    'sky snow bedcloth track tree truck wall water window wood'
).split()
MMSEG_NAME = dict(diningtable='table', clothes='cloth', bedcloth='bedclothes')
NAMES = dict(train=['2008_000002', '2010_000001'], val=['2009_000003'])
# Every number of the list, and 0.
NUMBERS = np.arange(60, dtype=np.uint8).reshape(6, 10)


def meaning(number: int) -> str:
    """Class of a number of the published list, by mmseg's name."""
    name = PUBLISHED[number - 1] if number else 'background'
    return MMSEG_NAME.get(name, name)


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """VOC2010 with three images, 10x6."""
    root = tmp_path / 'VOC2010'
    (root / 'JPEGImages').mkdir(parents=True)
    (root / 'ImageSets' / 'Main').mkdir(parents=True)
    for split, names in NAMES.items():
        lines = ''.join(f'{name}\n' for name in names)
        (root / 'ImageSets' / 'Main' / f'{split}.txt').write_text(lines)
        for name in names:
            Image.new('RGB', (10, 6)).save(root / 'JPEGImages' / f'{name}.jpg')
    return root


@pytest.fixture
def png(tmp_path: Path) -> tuple[Path, Path]:
    """59_context_labels and 59_labels.txt. Each image is turned by a row."""
    folder = tmp_path / '59_context_labels'
    folder.mkdir()
    for i, name in enumerate(NAMES['train'] + NAMES['val']):
        Image.fromarray(np.roll(NUMBERS, i, 0)).save(folder / f'{name}.png')
    labels = tmp_path / '59_labels.txt'
    labels.write_text(''.join(f'{i}: {n}\n' for i, n in enumerate(PUBLISHED, 1)))
    return folder, labels


@pytest.fixture
def mat(tmp_path: Path) -> tuple[Path, Path]:
    """trainval and labels.txt: 3 of 4 names are none of the 59 classes."""
    folder = tmp_path / 'trainval'
    folder.mkdir()
    names = [
        name
        for i, known in enumerate(sorted(MMSEG))
        for name in (f'other thing {i}', f'{known} holder', known, f'toy {known}')
    ]
    numbers = np.array([names.index(meaning(i)) + 1 if i else 0 for i in range(60)])
    numbers = numbers.astype(np.uint16)[NUMBERS]
    assert numbers.max() > 200
    numbers[0, 0] = 1  # other thing 0
    for i, name in enumerate(NAMES['train'] + NAMES['val']):
        savemat(folder / f'{name}.mat', dict(LabelMap=np.roll(numbers, i, 0)))
    labels = tmp_path / 'labels.txt'
    labels.write_text(''.join(f'{i}: {n}\n' for i, n in enumerate(names, 1)))
    return folder, labels


def convert(*paths: object) -> None:
    converter.main([str(path) for path in paths])


@pytest.mark.parametrize('form', ['png', 'mat'])
def test_classes_keep_their_names(form, voc, request, monkeypatch):
    convert(voc, *request.getfixturevalue(form))
    monkeypatch.setenv('PASCAL_CONTEXT_ROOT', str(voc))
    cfg = Config.fromfile('configs/_base_/datasets/pascal_context_59.py')
    init_default_scope('mmseg')
    count = 0
    for split, names in NAMES.items():
        config = cfg[f'{split}_dataloader'].dataset
        config.pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
        dataset = DATASETS.build(config)
        assert [Path(s['img_path']).stem for s in dataset] == names
        for sample in dataset:
            numbers = np.roll(NUMBERS, count, 0)
            found = [
                'background' if label == 255 else dataset.metainfo['classes'][label]
                for label in sample['gt_seg_map'].flat
            ]
            assert found == [meaning(number) for number in numbers.flat]
            count += 1
    assert count == 3


def test_most_class_numbers_differ_from_mmsegs():
    same = [i for i in range(1, 60) if meaning(i) == MMSEG[i - 1]]
    assert sorted(map(meaning, range(1, 60))) == sorted(MMSEG)
    assert len(same) == 5  # aeroplane, and wall to wood


def test_paletted_png(voc, png):
    folder, labels = png
    for path in folder.iterdir():
        image = Image.open(path)
        image.putpalette(np.random.default_rng(0).bytes(768))
        image.save(path)
        assert Image.open(path).mode == 'P'
    convert(voc, folder, labels)
    written = np.array(Image.open(voc / 'SegmentationClassContext' / '2008_000002.png'))
    assert written[0, 2] == 1 + MMSEG.index('bicycle')


def fails(capsys, *args) -> str:
    with pytest.raises(SystemExit) as stop:
        convert(*args)
    assert stop.value.code == 2
    return capsys.readouterr().err


class TestLabelList:
    def replace(self, labels: Path, old: str, new: str) -> None:
        labels.write_text(labels.read_text().replace(old, new))

    def test_with_background_and_spaces(self, voc, png):
        folder, labels = png
        self.replace(labels, '16: pottedplant', '16: Potted plant')
        labels.write_text('0: background\n\n' + labels.read_text())
        convert(voc, folder, labels)

    def test_missing(self, voc, png, capsys):
        png[1].unlink()
        assert f'{png[1]} is no list of classes' in fails(capsys, voc, *png)

    def test_unknown_class(self, voc, png, capsys):
        self.replace(png[1], '2: bicycle', '2: velocipede')
        message = fails(capsys, voc, *png)
        assert f'{png[1]} is not the list' in message
        assert 'it lacks bicycle (unknown: velocipede)' in message

    def test_additional_class(self, voc, png, capsys):
        png[1].write_text(png[1].read_text() + '60: unicorn\n')
        assert f'{png[1]}: unknown class unicorn' in fails(capsys, voc, *png)

    def test_of_459_classes_with_the_pngs_of_59(self, voc, png, mat, capsys):
        message = fails(capsys, voc, png[0], mat[1])
        assert 'unknown class aeroplaneholder' in message

    def test_class_twice(self, voc, png, capsys):
        self.replace(png[1], '2: bicycle', '2: bird')
        assert 'it lacks bicycle and has bird twice' in fails(capsys, voc, *png)

    def test_number_twice(self, voc, png, capsys):
        self.replace(png[1], '3: bird', '2: bird')
        assert f'{png[1]}, line 3: 2 is there twice' in fails(capsys, voc, *png)

    def test_line_without_number(self, voc, png, capsys):
        self.replace(png[1], '3: bird', 'bird')
        message = fails(capsys, voc, *png)
        assert f"{png[1]}, line 3: 'bird', expected 'number: name" in message


class TestFaults:
    def test_no_voc(self, voc, png, capsys, tmp_path):
        assert 'no such folder: nowhere' in fails(capsys, 'nowhere', *png)
        message = fails(capsys, tmp_path, *png)
        assert f'give the folder VOC2010, not {tmp_path}' in message

    def test_folder_without_annotations(self, voc, png, capsys):
        message = fails(capsys, voc, voc, png[1])
        assert f'{voc} has neither .png nor .mat files' in message

    def test_missing_annotation(self, voc, png, capsys):
        path = png[0] / '2009_000003.png'
        path.unlink()
        message = fails(capsys, voc, *png)
        assert f'1 files are missing, the first one is {path}' in message
        assert not (voc / 'SegmentationClassContext').exists()  # nothing half done

    def test_value_outside_the_list(self, voc, png, capsys):
        path = png[0] / '2009_000003.png'
        Image.fromarray(NUMBERS + 2).save(path)
        message = fails(capsys, voc, *png)
        assert f'{path}: label value [60, 61] is not in the list' in message

    def test_value_in_a_gap_of_the_list(self, voc, png, capsys):
        labels = png[1].read_text()
        png[1].write_text(labels.replace('59: wood', '70: wood'))
        message = fails(capsys, voc, *png)
        assert 'label value [59] is not in the list' in message

    def test_colours(self, voc, png, capsys):
        path = png[0] / '2009_000003.png'
        Image.new('RGB', (10, 6)).save(path)
        assert f'{path} is not a label map: shape (6, 10, 3)' in fails(capsys, voc, *png)

    def test_wrong_size(self, voc, png, capsys):
        path = png[0] / '2009_000003.png'
        Image.fromarray(NUMBERS[:5]).save(path)
        assert f'{path} is 10x5, but' in fails(capsys, voc, *png)

    @pytest.mark.parametrize('form', ['png', 'mat'])
    def test_broken_annotation(self, form, voc, request, capsys):
        folder, labels = request.getfixturevalue(form)
        path = folder / f'2009_000003.{form}'
        path.write_bytes(path.read_bytes()[:30])
        message = fails(capsys, voc, folder, labels)
        assert f'{path} does not decode' in message

    def test_mat_without_labels(self, voc, mat, capsys):
        path = mat[0] / '2009_000003.mat'
        savemat(path, dict(other=NUMBERS))
        assert f'{path} does not decode: KeyError' in fails(capsys, voc, *mat)

    def test_broken_image(self, voc, png, capsys):
        path = voc / 'JPEGImages' / '2009_000003.jpg'
        path.write_bytes(b'no image')
        assert f'{path} does not decode' in fails(capsys, voc, *png)
