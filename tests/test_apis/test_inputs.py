"""What inference is run on, by path, folder or glob."""

from pathlib import Path

import pytest

from mmgcnl.apis import expand_glob, find_images, inputs, is_video


def test_folder_without_images(tmp_path):
    for name in ('A/1.png', 'B/C/2.png', 'clips/a.flv', 'empty/x'):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / 'empty/x').unlink()
    for folder, words in (
        ('', r"but folders \(A, B, clips, ...\): give these, or .* '.*/\*\*/\*.png'"),
        ('clips', 'but files with .flv: .* give videos by name'),
        ('empty', 'the folder is empty'),
    ):
        with pytest.raises(FileNotFoundError, match=words):
            find_images(str(tmp_path / folder))
    found = find_images(f'{tmp_path}/**/*.png')
    assert [Path(path).name for path in found] == ['1.png', '2.png']


def test_skipped_files_are_named(tmp_path, monkeypatch):
    warnings = []
    monkeypatch.setattr(inputs, 'print_log', lambda text, *_: warnings.append(text))
    for name in ('1.png', 'b.gif', 'notes.txt'):
        (tmp_path / name).touch()
    assert find_images(str(tmp_path)) == [str(tmp_path / '1.png')]
    (warning,) = warnings
    assert (
        warning.startswith(f'2 files in {tmp_path} are skipped') and 'b.gif, no' in warning
    )


def test_what_is_a_video(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ('a.MP4', '0', 'folder/b.mkv', 'c.flv', 'd.ts', 'e.m2ts', 'f.3gp'):
        assert is_video(name)
    assert not is_video('a.png') and not is_video('folder') and not is_video('none.gif')
    (tmp_path / '7').mkdir()
    assert not is_video('7')  # a folder


def test_globs(tmp_path):
    for name in ('b.avi', 'a.avi', 'c[1].avi'):
        (tmp_path / name).touch()
    expected = [f'{tmp_path}/{name}.avi' for name in ('a', 'b', 'c[1]')]
    assert expand_glob(f'{tmp_path}/*.avi') == expected
    for other in (f'{tmp_path}/c[1].avi', f'{tmp_path}/*.flv', str(tmp_path), 'rtsp://a/*'):
        assert expand_glob(other) == [other]
