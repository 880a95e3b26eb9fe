"""A trained model of mmdet or mmseg from its config and checkpoint."""

from __future__ import annotations

import copy
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.device import get_device
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmengine.runner import set_random_seed
from torch import nn

from mmgcnl.datasets.loading import leaf_datasets
from mmgcnl.datasets.pictures import ImageReader, loads_image
from mmgcnl.engine.checkpoints import (
    CheckpointLoader,
    explain_missing_weights,
    install_safe_loading,
)
from mmgcnl.engine.timm_errors import explain_timm
from mmgcnl.utils.config_types import class_of, scope_of, type_name
from mmgcnl.utils.text import first_names


def init_model(
    config: str | Path | Config, checkpoint: str | None, device: str | None = None
) -> nn.Module:
    """Build a detector or segmentor with its weights, in eval mode.

    mmdet's init_detector and mmseg's init_model accept a checkpoint that does not fit, and
    leave the missing weights random.

    Args:
        config: The config, or its path.
        checkpoint: Path or URL. None: the model as at the start of a training, from
            ``randomness.seed`` of the config (0 without one), with pretrained weights of
            the backbone. OpenMMLab's mmengine draws a random number before it trains by
            iterations, and starts from other random weights.
        device: Such as 'cpu' or 'cuda:1'. Default: a GPU if there is one.

    Returns:
        The model, with ``cfg`` and ``dataset_meta`` (classes, palette) set.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        RuntimeError: The config's pretrained weights cannot be loaded.
        ValueError: The checkpoint cannot be read, or does not fit the config.
    """
    install_safe_loading()
    cfg = copy.deepcopy(config) if isinstance(config, Config) else Config.fromfile(config)
    if checkpoint is None:
        set_random_seed(cfg.get('randomness', {}).get('seed') or 0)
        model: Any = build_model(cfg)
        with explain_missing_weights(cfg.model):
            model.init_weights()
        loaded: dict[str, Any] = {}
    else:
        model = build_model(cfg)
        loaded = _read(checkpoint)
        _load(model, loaded, checkpoint, cfg)
    model.dataset_meta = _dataset_meta(loaded, cfg)
    model.cfg = cfg
    return model.to(device or get_device()).eval()


def _load(model: nn.Module, loaded: dict, checkpoint: str, cfg: Config) -> None:
    """Load the weights of a checkpoint, which must fit the model."""
    state = _without_wrapper(loaded.get('state_dict', loaded))
    own = model.state_dict()
    other_shape = [k for k, v in state.items() if k in own and v.shape != own[k].shape]
    for key in other_shape:
        del state[key]
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:  # weights of a newer version of GCNonLocal2d
        raise ValueError(f'{checkpoint}: {str(error).splitlines()[-1].strip()}') from error
    missing = [k for k in missing if not k.endswith('num_batches_tracked')]
    kinds = {
        'missing': [k for k in missing if k not in other_shape],
        'unexpected': unexpected,
        'of another shape': other_shape,
    }
    faults = [f'{len(v)} {kind} ({first_names(v)})' for kind, v in kinds.items() if v]
    if faults:
        raise ValueError(
            f'{checkpoint} does not fit {cfg.filename or "the config"}: of its keys, '
            f'{", ".join(faults)}; give the config that it was trained with'
        )


def build_model(cfg: Config) -> nn.Module:
    """Build the model of a config.

    Pretrained weights are not loaded, and SyncBN layers become BN.

    Args:
        cfg: The config.

    Raises:
        ConfigError: timm, or weights of it, are missing.
    """
    init_default_scope(scope_of(cfg))
    settings = {k: v for k, v in cfg.model.items() if k != 'pretrained'}
    with warnings.catch_warnings(), explain_timm(cfg.model):
        warnings.simplefilter('ignore')  # mmseg advises on training
        return revert_sync_batchnorm(MODELS.build(settings))


def input_channels(model: nn.Module) -> int:
    """Count the channels that a detector or segmentor takes.

    As many as its data_preprocessor has means; without several means, those of the first
    convolution of the backbone.
    """
    mean = getattr(getattr(model, 'data_preprocessor', None), 'mean', None)
    if mean is not None and mean.numel() > 1:
        return mean.numel()
    pixels = 1
    for module in getattr(model, 'backbone', model).modules():
        if type(module).__name__ == 'Focus':  # of YOLOX: 4 pixels become channels
            pixels = 4
        if isinstance(module, nn.Conv2d):
            return module.in_channels // pixels
    return 3


def image_pipeline(cfg: Config, annotations: bool = False, split: str = 'test') -> Compose:
    """Make the test pipeline of a config take any image.

    Args:
        cfg: The config.
        annotations: Whether to keep the transforms that load annotations.
        split: Take the pipeline of this split instead, 'val' or 'test'. Of several data
            sets, the first counts.

    Returns:
        A pipeline from an image to the model's input. The image is a path, or an array as
        the config's loader gives it: (H, W, 3) in BGR, unless that says otherwise.

    Raises:
        ValueError: There is no such pipeline, or it loads no image.
    """
    init_default_scope(scope_of(cfg))
    transforms = copy.deepcopy(_data_set(cfg, split).get('pipeline'))
    if not transforms:
        raise ValueError(f'{split}_dataloader of the config has no dataset.pipeline')
    names = [type_name(transform['type']) for transform in transforms]
    loader = next((i for i, name in enumerate(names) if loads_image(name)), None)
    if loader is None:
        raise ValueError(f'the {split} pipeline of the config has no LoadImageFromFile')
    kept = [
        i
        for i, name in enumerate(names)
        if i == loader or annotations or not name.startswith('Load')
    ]
    pipeline = Compose([transforms[i] for i in kept])
    place = kept.index(loader)
    pipeline.transforms[place] = ImageReader(pipeline.transforms[place])
    return pipeline


def _data_set(cfg: Config, split: str) -> dict[str, Any]:
    """Return the config of a split's data set, of several the first."""
    loader = cfg.get(f'{split}_dataloader') or {}
    return next(leaf_datasets(loader.get('dataset') or {}))


def _read(checkpoint: str) -> dict[str, Any]:
    if '://' not in checkpoint and not Path(checkpoint).is_file():
        raise FileNotFoundError(f'no such checkpoint: {checkpoint}')
    loaded = CheckpointLoader.load_checkpoint(
        checkpoint, map_location='cpu', logger='silent'
    )
    if not isinstance(loaded, dict):
        raise ValueError(
            f'{checkpoint} is not a checkpoint: it does not hold a dict of weights'
        )
    return loaded


def _without_wrapper(state: dict[str, Any]) -> OrderedDict[str, Any]:
    """Remove the prefix that wrapping for distributed training gives to the weights."""
    plain = OrderedDict((k.removeprefix('module.'), v) for k, v in state.items())
    versions = getattr(state, '_metadata', {})  # where torch keeps them
    versions = {k.removeprefix('module.'): v for k, v in versions.items()}
    plain._metadata = versions  # type: ignore[attr-defined]
    return plain


def _dataset_meta(checkpoint: dict[str, Any], cfg: Config) -> dict[str, Any]:
    """Find classes and palette: those of the checkpoint, else of the config's data set."""
    meta = checkpoint.get('meta', {}).get('dataset_meta', {})
    meta = {key.lower(): value for key, value in meta.items()}
    dataset = _data_set(cfg, 'test')
    default = getattr(class_of(dataset, DATASETS), 'METAINFO', {})
    default = {**default, **dataset.get('metainfo', {})}
    meta = {**{key.lower(): value for key, value in default.items()}, **meta}
    if not meta.get('classes'):
        raise ValueError(
            'neither the checkpoint nor the data set of the config has class names; set '
            'test_dataloader.dataset.metainfo.classes in the config'
        )
    if scope_of(cfg) == 'mmdet':
        meta.setdefault('palette', 'random')
    elif not meta.get('palette'):  # as mmseg's data sets without one
        shape = len(meta['classes']), 3
        meta['palette'] = np.random.RandomState(42).randint(0, 255, shape).tolist()
    return meta
