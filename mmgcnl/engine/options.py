"""What the options of tools/train.py and tools/test.py change in a config.

Each function changes the config that it is given. Where a config lacks what an option
needs, a ValueError says so.
"""

from __future__ import annotations

import copy
import os
from importlib.util import find_spec
from tempfile import TemporaryFile

from mmengine.config import Config

from mmgcnl.utils.config_types import scope_of, type_name

from .checkpoints import find_checkpoints


class ConfigError(ValueError):
    """A config that cannot work as it is; the message has the remedy."""


def is_detector(cfg: Config) -> bool:
    """Tell configs of mmdet from those of mmseg."""
    return scope_of(cfg) == 'mmdet'


def use_amp(cfg: Config, dtype: str) -> None:
    """Train with automatic mixed precision: 'fp16', which needs a GPU, or 'bf16'."""
    # The config may have been made for the other dtype.
    cfg.optim_wrapper.pop('loss_scale', None)
    cfg.optim_wrapper.pop('dtype', None)
    if dtype == 'fp16':
        cfg.optim_wrapper.update(type='AmpOptimWrapper', loss_scale='dynamic')
    else:
        cfg.optim_wrapper.type = 'Bfloat16OptimWrapper'


def scale_learning_rate(cfg: Config) -> None:
    """Scale the learning rate by the batch size over all processes.

    Raises:
        ValueError: The config has no ``auto_scale_lr.base_batch_size``.
    """
    if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
        raise ValueError(
            'the config does not say which batch size its learning rate is for; set it by '
            '--cfg-options auto_scale_lr.base_batch_size=N'
        )
    cfg.auto_scale_lr.enable = True


def resume_training(cfg: Config, checkpoint: str) -> None:
    """Resume from a checkpoint, or with 'auto' from the latest of the work dir.

    If that has none, the training starts from the beginning, with the weights of
    ``load_from`` if the config has it.
    """
    automatic = checkpoint == 'auto'
    if automatic and cfg.get('load_from') and not find_checkpoints(cfg.work_dir):
        return
    cfg.resume = True
    cfg.load_from = None if automatic else checkpoint


def use_trainval(cfg: Config) -> None:
    """Train on the training and the validation images together.

    The validation images are read as the training images are, apart from the settings of
    the data set that ``trainval`` of the config replaces.

    Raises:
        ValueError: The config has no ``trainval``, or trains on several data sets already.
    """
    if 'trainval' not in cfg:
        raise ValueError(
            f'{cfg.filename or "the config"} has no `trainval`: define it as in '
            'configs/_base_/datasets/camvid.py, or leave out --trainval'
        )
    dataset = cfg.train_dataloader.dataset
    if 'datasets' in dataset or 'dataset' in dataset:
        raise ValueError(
            f'train_dataloader.dataset is a {type_name(dataset.type)}: without --trainval, '
            'write the data sets into it'
        )
    datasets = [dataset, {**copy.deepcopy(dataset), **cfg.trainval}]
    cfg.train_dataloader.dataset = dict(type='ConcatDataset', datasets=datasets)


def make_watchable(cfg: Config) -> None:
    """Log to TensorBoard, where it is installed, and draw some validation images.

    The configs do not ask for this themselves because they also serve for testing, where
    a hook that draws would draw every image.
    """
    hook = cfg.get('default_hooks', {}).get('visualization')
    if hook is not None:
        hook.setdefault('draw', True)
    backends = cfg.get('visualizer', {}).get('vis_backends')
    tensorboard = 'TensorboardVisBackend'
    if backends is not None and tensorboard not in [type_name(b.type) for b in backends]:
        if find_spec('tensorboard'):
            backends.append(dict(type=tensorboard))
        else:
            print('no log for TensorBoard: pip install tensorboard')


def draw_predictions(
    cfg: Config, show: bool = False, show_dir: str | None = None, wait_time: float = 2
) -> None:
    """Let the visualization hook draw the predictions of a test.

    Args:
        cfg: The config.
        show: Whether to show them in a window.
        show_dir: Folder to draw them to. For a detector, a relative path is taken below
            <work dir>/<time stamp>.
        wait_time: Seconds between shown images.

    Raises:
        ValueError: The config has no ``default_hooks.visualization``.
    """
    if 'visualization' not in cfg.get('default_hooks', {}):
        raise ValueError('the config has no default_hooks.visualization to draw with')
    hook = cfg.default_hooks.visualization
    hook.draw = True
    hook.interval = 1  # mmseg 1.2.2 applies the interval in tests as well
    if show:
        hook.update(show=True, wait_time=wait_time)
    if show_dir:
        if is_detector(cfg):
            hook.test_out_dir = show_dir
        else:
            cfg.visualizer.save_dir = show_dir


def use_tta(cfg: Config) -> None:
    """Test with the test-time augmentation that the config describes.

    Raises:
        ValueError: The config has no ``tta_model`` or no ``tta_pipeline``.
    """
    for key in ('tta_model', 'tta_pipeline'):
        if not cfg.get(key):
            raise ValueError(f'the config has no {key}')
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
    cfg.model = dict(cfg.tta_model, module=cfg.model)


def save_predictions(cfg: Config, out: str) -> None:
    """Write the predictions of a detector to a .pkl file, label maps to a folder.

    Raises:
        ValueError: ``out`` is no .pkl file for a detector, or cannot be written.
    """
    if is_detector(cfg):
        if not out.endswith(('.pkl', '.pickle')):
            raise ValueError(f'a detector needs a .pkl file, not {out}')
        _check_writable(os.path.dirname(out) or '.')
        metrics = cfg.test_evaluator
        metrics = metrics if isinstance(metrics, list) else [metrics]
        dump = dict(type='mmdet.DumpDetResults', out_file_path=out)
        cfg.test_evaluator = [*metrics, dump]
        return
    _check_writable(out)
    hook = dict(type='mmgcnl.engine.output_files.LabelMapHook', out_dir=out)
    cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), hook]


def write_submission(cfg: Config, folder: str) -> None:
    """Predict what the benchmark's server evaluates, and write its files into ``folder``.

    Raises:
        ValueError: The config has no ``submission``, or ``folder`` cannot be written.
    """
    if 'submission' not in cfg:
        raise ValueError(
            f'{cfg.filename or "the config"} has no `submission`: define it as in '
            'configs/_base_/datasets/cityscapes_769x769.py, or leave out --submission'
        )
    _check_writable(folder)
    cfg.merge_from_dict(cfg.submission)
    if is_detector(cfg):
        name = os.path.splitext(os.path.basename(cfg.filename))[0]
        prefix = os.path.join(folder, f'detections_test-dev2017_{name}_results')
        cfg.test_evaluator.outfile_prefix = prefix
    else:
        cfg.test_evaluator.output_dir = folder


def _check_writable(folder: str) -> None:
    """Make a folder; raise a ValueError if no file can be written into it."""
    try:
        os.makedirs(folder, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f'{folder} cannot be written: {error.strerror}') from error
