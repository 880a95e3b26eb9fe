"""Videos and cameras: what is written, also when they break off."""

import cv2
import numpy as np
import pytest
from PIL import Image

from mmgcnl.apis import Inferencer, is_video, segment_video
from tests.builders import call_tool, write_inference_model

FRAMES = 6


@pytest.fixture
def video(tmp_path):
    """Six frames of a moving square, 64x48, as motion JPEG: every frame is complete."""
    path = tmp_path / 'square.avi'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), 10, (64, 48))
    for i in range(FRAMES):
        frame = np.full((48, 64, 3), 40, np.uint8)
        frame[10:30, 5 * i : 5 * i + 20] = 200
        writer.write(frame)
    writer.release()
    return path


@pytest.fixture
def model(tmp_path):
    return write_inference_model(tmp_path, 'semantic')


def read(path):
    capture = cv2.VideoCapture(str(path))
    frames = []
    while True:
        there, frame = capture.read()
        if not there:
            return np.array(frames), capture.get(cv2.CAP_PROP_FPS)
        frames.append(frame)


def cut(video):
    """Cut a video after its fourth frame: its header promises all six."""
    content = video.read_bytes()
    starts = [i for i in range(len(content)) if content[i : i + 4] == b'00dc']
    video.write_bytes(content[: starts[4]])


class Camera:
    """A camera of OpenCV that shows six frames, and then what ``then`` does."""

    opened = True
    then = None

    def __init__(self, source):
        assert source == 0
        self.number = 0

    def isOpened(self):
        return self.opened

    def get(self, _):
        return 0.0

    def read(self):
        self.number += 1
        if self.number > FRAMES:
            if self.then is not None:
                raise self.then
            return False, None
        return True, np.full((48, 64, 3), 20 * self.number, np.uint8)

    def release(self):
        pass


def test_video(tmp_path, video, model, capsys):
    out = tmp_path / 'out'
    call_tool('infer', *model, video, '--out-dir', out, '--device', 'cpu')
    frames, rate = read(out / 'overlays/square.mp4')
    assert frames.shape == (FRAMES, 48, 64, 3) and rate == 10
    inferencer = Inferencer(*model, device='cpu')
    originals, _ = read(video)
    for frame, original in zip(frames, originals):
        drawn = inferencer(original, return_vis=True)['visualization'][0][..., ::-1]
        assert np.abs(frame.astype(int) - drawn).mean() < 12  # the codec loses some
        assert np.abs(frame.astype(int) - original).mean() > 20
    assert f'written: {out}/overlays/square.mp4' in capsys.readouterr().out


def test_two_videos_of_the_same_name(tmp_path, video, model, capsys):
    other = tmp_path / 'other' / video.name
    other.parent.mkdir()
    other.write_bytes(video.read_bytes())
    with pytest.raises(SystemExit, match='2'):
        call_tool('infer', *model, video, other, '--out-dir', tmp_path / 'out')
    message = f'{video} and {other} would be written to the same file'
    assert message in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


def test_video_that_breaks_off(tmp_path, video, model, capsys):
    cut(video)
    with pytest.raises(SystemExit, match='2'):
        call_tool('infer', *model, video, '--out-dir', tmp_path / 'out')
    number = len(read(tmp_path / 'out/overlays/square.mp4')[0])
    assert 2 < number < FRAMES  # OpenCV may leave out the last one
    message = f'{video}: breaks off after {number} of {FRAMES} frames'
    assert message in capsys.readouterr().err


def test_model_that_fails_in_the_middle(tmp_path, video, model, monkeypatch):
    inferencer = Inferencer(*model, device='cpu')
    forward, seen = inferencer.model.test_step, []

    def fail(data):
        seen.append(data)
        if len(seen) > 3:
            raise RuntimeError('out of memory')
        return forward(data)

    monkeypatch.setattr(inferencer.model, 'test_step', fail)
    reason = segment_video(inferencer, str(video), tmp_path / 'out.mp4')
    assert reason.startswith('breaks off after 3 frames: the model fails on it: ')
    assert 'out of memory' in reason
    assert len(read(tmp_path / 'out.mp4')[0]) == 3
    assert inferencer.show_progress
    with pytest.raises(OSError, match='frame 1: the model fails on it: .*out of memory'):
        segment_video(inferencer, str(video), tmp_path / 'none.mp4')
    assert not (tmp_path / 'none.mp4').exists()


@pytest.mark.parametrize('then', [None, KeyboardInterrupt()])
def test_camera(tmp_path, model, monkeypatch, then):
    monkeypatch.setattr(Camera, 'then', then)
    monkeypatch.setattr('mmgcnl.apis.video.cv2.VideoCapture', Camera)
    call_tool('infer', *model, '0', '--out-dir', tmp_path / 'out', '--device', 'cpu')
    monkeypatch.undo()
    frames, rate = read(tmp_path / 'out/overlays/camera0.mp4')
    assert len(frames) == FRAMES and rate == 25


def test_what_does_not_open(tmp_path, video, model, monkeypatch, capsys):
    """The other one is segmented all the same."""
    broken = tmp_path / 'broken.mp4'
    broken.write_bytes(b'no video')
    monkeypatch.setattr(Camera, 'opened', False)
    capture = cv2.VideoCapture
    monkeypatch.setattr(
        'mmgcnl.apis.video.cv2.VideoCapture',
        lambda source: Camera(source) if source == 0 else capture(source),
    )
    out = tmp_path / 'out'
    with pytest.raises(SystemExit, match='2'):
        call_tool('infer', *model, broken, '0', video, '--out-dir', out)
    err = capsys.readouterr().err
    assert f'{broken}: does not open as a video' in err
    assert '0: camera 0 does not open' in err
    assert len(read(out / 'overlays/square.mp4')[0]) == FRAMES


@pytest.mark.parametrize('number', [1, 3])
def test_gif(tmp_path, model, number):
    """It is a video if it moves."""
    path = tmp_path / 'a.gif'
    frames = [Image.new('RGB', (64, 48), (80 * i, 100, 200)) for i in range(number)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100)
    assert is_video(str(path)) == (number > 1)
    (tmp_path / 'b.gif').write_text('no image')
    assert not is_video(str(tmp_path / 'b.gif'))
    if number > 1:
        out = tmp_path / 'out'
        call_tool('infer', *model, path, '--out-dir', out, '--device', 'cpu')
        assert len(read(out / 'overlays/a.mp4')[0]) == number


def test_globs_of_videos_and_images(tmp_path, video, images, model, capsys):
    other = tmp_path / 'other.avi'
    other.write_bytes(video.read_bytes())
    out = tmp_path / 'out'
    globs = [f'{tmp_path}/*.avi', f'{images}/*', f'{tmp_path}/*.flv', '--num-frames', 2]
    with pytest.raises(SystemExit, match='2'):
        call_tool('infer', *model, *globs, '--out-dir', out, '--device', 'cpu')
    assert f'{tmp_path}/*.flv: no such file' in capsys.readouterr().err
    names = sorted(path.name for path in (out / 'overlays').iterdir())
    assert names == ['0.png', '1.png', '2.png', 'other.mp4', 'square.mp4']
    assert len(read(out / 'overlays/square.mp4')[0]) == 2


def test_cfg_options(tmp_path, images, model, capsys):
    """They reach the model: a head for other classes does not fit the weights."""
    options = ['--cfg-options', 'model.decode_head.num_classes=4']
    with pytest.raises(SystemExit, match='2'):
        call_tool('infer', *model, images, '--out-dir', tmp_path / 'out', *options)
    assert 'does not fit' in capsys.readouterr().err
