"""The command line of tools/check_data.py; tests/test_datasets has what it finds."""

import pytest
from PIL import Image


def test_faultless(call, segmentor, tmp_path, capsys):
    call('check_data', segmentor, '--out', tmp_path / 'a.png', '--num-samples', 2)
    out = capsys.readouterr().out
    assert 'train, val, test: 5 images, 2 of 2 classes' in out
    assert '  square       5       1280  25.00 %' in out
    assert 'no fault in 5 images' in out
    assert Image.open(tmp_path / 'a.png').size[0] == 2 * 4 * 150


def test_share_of_ignored_pixels(call, segmentor, capsys):
    options = [f'{s}_dataloader.dataset.reduce_zero_label=True' for s in ('train', 'val')]
    options.append('test_dataloader.dataset.reduce_zero_label=True')
    call('check_data', segmentor, '--num-samples', 0, '--cfg-options', *options)
    out = capsys.readouterr().out
    assert '  ground       5       1280 100.00 %' in out
    assert '  ignored: 75.00 % of all pixels' in out


def test_detector(call, detector, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call('check_data', detector)
    assert '  square       5          5\n' in capsys.readouterr().out
    assert (tmp_path / 'work_dirs' / 'detector' / 'data.png').is_file()


def test_faults(call, segmentor, squares, tmp_path, capsys):
    options = [f'train_dataloader.dataset.data_root={tmp_path / "none"}']
    options += [f'{split}_evaluator.ann_file=/no.json' for split in ('val', 'test')]
    out = tmp_path / 'a.png'
    with pytest.raises(SystemExit) as stop:
        call('check_data', segmentor, '--out', out, '--cfg-options', *options)
    assert stop.value.code == 1
    first, second, third, number = capsys.readouterr().err.splitlines()[-4:]
    assert first.startswith('train: ') and str(tmp_path / 'none') in first
    assert second.startswith('val, test: val_evaluator.ann_file: no such file')
    assert third.startswith('val, test: test_evaluator.ann_file: no such file')
    assert number == '3 faults'
    assert out.is_file()  # the sound ones are drawn


def test_notes_are_no_faults(call, segmentor, squares, tmp_path, capsys):
    options = ['--cfg-options', 'val_dataloader.dataset.indices=2']
    call('check_data', segmentor, '--num-samples', 0, *options)
    out = capsys.readouterr().out
    assert 'note: val: 2 of the images are also training images: ' in out
    assert 'no fault in ' in out


@pytest.mark.parametrize(
    ('kind', 'option', 'have', 'want'),
    [
        ('segmentor', 'model.decode_head.num_classes', 3, 2),
        ('detector', 'model.bbox_head.num_classes', 80, 1),
    ],
)
def test_heads_with_other_classes(call, request, capsys, kind, option, have, want):
    config = request.getfixturevalue(kind)
    with pytest.raises(SystemExit, match='1'):
        call('check_data', config, '--num-samples', 0, '--cfg-options', f'{option}={have}')
    err = capsys.readouterr().err
    assert f'model: {option} is {have}, but the data set has {want} classes' in err
    assert f'set --cfg-options {option}={want}' in err


def test_size_of_an_image_is_no_fault(call, detector, tmp_path, capsys, monkeypatch):
    """PIL refuses images of more than twice this many pixels; the loader does not."""
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)
    call('check_data', detector, '--num-samples', 0)
    assert 'no fault in 10 images' in capsys.readouterr().out
    assert Image.MAX_IMAGE_PIXELS == 100


def test_image_that_cannot_be_drawn(call, segmentor, tmp_path, capsys, monkeypatch):
    def fail(*_):
        raise ValueError('too large')

    monkeypatch.setattr('mmgcnl.datasets.inspection.to_picture', fail)
    call('check_data', segmentor, '--out', tmp_path / 'a.png', '--num-samples', 1)
    out = capsys.readouterr().out
    assert '1.png is not drawn: ValueError: too large' in out
    assert 'no fault in 5 images' in out and not (tmp_path / 'a.png').exists()


def test_what_was_found_before_an_error(call, segmentor, tmp_path, capsys, monkeypatch):
    """Is reported, whatever it is."""
    monkeypatch.setattr(
        'mmgcnl.datasets.inspection.compare_splits', lambda _: 1 / 0, raising=True
    )
    with pytest.raises(ZeroDivisionError):
        call('check_data', segmentor, '--num-samples', 0)
    assert 'train, val, test: 5 images, 2 of 2 classes' in capsys.readouterr().out


def test_label_maps_without_class_names(call, segmentor, tmp_path, capsys):
    with segmentor.open('a') as file:
        file.write("del train_dataloader['dataset']['metainfo']\n")
    with pytest.raises(SystemExit, match='1'):
        call('check_data', segmentor, '--out', tmp_path / 'a.png', '--num-samples', 0)
    output = capsys.readouterr()
    assert 'train: 5 images, 0 of 0 classes' in output.out
    assert 'no class names: set metainfo.classes of the data set' in output.err
    assert not (tmp_path / 'a.png').exists()


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['nowhere.py'], 'config: no such file: nowhere.py'),
        (
            ['{config}', '--num-samples', '-1'],
            '--num-samples: -1: give a whole number of at least 0',
        ),
        (['{config}', '--out', 'a.jpg'], '--out: a.jpg: give a name that ends with .png'),
        (['{empty}'], 'has no data: none of {train,val,test}_dataloader'),
    ],
)
def test_bad_usage(call, segmentor, tmp_path, capsys, arguments, message):
    (tmp_path / 'empty.py').write_text('model = dict()')
    paths = dict(config=segmentor, empty=tmp_path / 'empty.py')
    with pytest.raises(SystemExit) as stop:
        call('check_data', *[argument.format(**paths) for argument in arguments])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
