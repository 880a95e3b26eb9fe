"""Inference on video files and cameras: a video of the predictions."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from mmengine.utils import ProgressBar

from .inferencer import Inferencer

CAMERA_RATE = 25.0  # frames per second, for cameras that do not report theirs


def segment_video(
    inferencer: Inferencer,
    source: str,
    out: str | Path,
    pred_score_thr: float = 0.3,
    num_frames: int | None = None,
) -> str | None:
    """Write a video with the predictions drawn over each frame.

    Args:
        inferencer: Segments the frames.
        source: Path of a video file, or the number of a camera, which runs until Ctrl-C.
        out: The MP4 file to write. After an error or Ctrl-C it has the frames so far.
        pred_score_thr: Instances with a lower score are not drawn.
        num_frames: How many frames. Default: all.

    Returns:
        None, or a line that says where the video broke off, or the model failed.

    Raises:
        OSError: The video or camera does not open or has no frame, the model fails on the
            first one, or ``out`` cannot be written.
    """
    camera = source.isdecimal() and not Path(source).exists()
    capture = cv2.VideoCapture(int(source) if camera else source)
    if not capture.isOpened():
        if camera:
            raise OSError(f'camera {source} does not open')
        if '://' not in source and not Path(source).exists():
            raise FileNotFoundError('no such file')
        raise OSError('does not open as a video')
    rate = capture.get(cv2.CAP_PROP_FPS) or CAMERA_RATE
    promised = 0 if camera else max(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)
    expected = min(promised, num_frames or promised)
    written = 0
    reason = writer = None
    shown, inferencer.show_progress = inferencer.show_progress, False
    bar = ProgressBar(expected or num_frames or 0) if shown else None
    try:
        while written != num_frames:
            there, frame = capture.read()
            if not there:
                break
            results = inferencer(frame, return_vis=True, pred_score_thr=pred_score_thr)
            reason = next(iter(results['failed'].values()), None)
            if reason is not None:
                break
            (drawn,) = results['visualization']
            if writer is None:  # the first frame has the size of all
                writer = _open_writer(Path(out), rate, drawn.shape)
            writer.write(np.ascontiguousarray(drawn[..., ::-1]))
            written += 1
            if bar is not None:
                bar.update()
    except KeyboardInterrupt:
        if not camera:
            raise
    finally:
        capture.release()
        if writer is not None:
            writer.release()  # players refuse the file without its end
        inferencer.show_progress = shown
        if bar is not None:
            print()
    if not written:
        raise OSError(f'frame 1: {reason}' if reason else 'has no frame that decodes')
    if reason is not None:
        return f'breaks off after {written} frames: {reason}'
    if written < expected:
        return f'breaks off after {written} of {promised} frames'
    return None


def _open_writer(path: Path, rate: float, shape: tuple[int, ...]) -> cv2.VideoWriter:
    path.parent.mkdir(parents=True, exist_ok=True)
    codec = cv2.VideoWriter.fourcc(*'mp4v')
    writer = cv2.VideoWriter(str(path), codec, rate, (shape[1], shape[0]))
    if not writer.isOpened():
        raise OSError(f'{path} cannot be written as a video')
    return writer
