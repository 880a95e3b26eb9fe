"""Drawn miniatures of every data set, and configs reduced to them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

from mmgcnl.datasets.loading import leaf_datasets
from tests.builders import ROOT, call_tool, draw_every_data_set

CROP = (48, 48)
FOLDERS = dict(
    ADE20K_ROOT='ade',
    CAMVID_ROOT='camvid',
    CITYSCAPES_ROOT='cityscapes',
    COCO_ROOT='coco',
    MSRC21_ROOT='msrc21',
    PASCAL_CONTEXT_ROOT='pascal_context',
    PROBE_ROOT='probe',
    VOC_ANIMALS_ROOT='voc_animals',
)


@pytest.fixture(scope='session')
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a miniature of every data set, in the folders of FOLDERS."""
    root = tmp_path_factory.mktemp('drawn')
    draw_every_data_set(root)
    return root


@pytest.fixture
def reduced(drawn: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Config]:
    """Read a config: on the drawn data, two iterations, a narrow model, small images."""
    for variable, folder in FOLDERS.items():
        monkeypatch.setenv(variable, str(drawn / folder))

    def read(path: str) -> Config:
        cfg = Config.fromfile(ROOT / path)
        reduce(cfg)
        return cfg

    return read


@pytest.fixture
def run_tool(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Call main() of tools/<name>.py, as if in a new process."""
    monkeypatch.setenv('LOCAL_RANK', '0')  # what main() sets goes with the test
    return call_tool


def reduce(cfg: Config) -> None:
    for split in ('train', 'val', 'test'):
        if cfg.get(f'{split}_dataloader'):
            loader = cfg[f'{split}_dataloader']
            loader.update(num_workers=0, persistent_workers=False)
            loader.batch_size = min(loader.batch_size, 2)
            for dataset in leaf_datasets(loader.dataset):
                reduce_pipeline(dataset.pipeline)
                # of CamVid and MSRC-21; the drawn data has none, and fewer images
                dataset.pop('sequences', None)
                if isinstance(dataset.get('indices'), list):
                    del dataset['indices']
    if 'submission' in cfg:
        reduce_pipeline(cfg.submission.test_dataloader.dataset.get('pipeline', ()))
    if 'max_epochs' in cfg.train_cfg:
        cfg.train_cfg.max_epochs = 1
    else:
        cfg.train_cfg.max_iters = 2
        if cfg.get('val_cfg'):
            cfg.train_cfg.val_interval = 2
        cfg.default_hooks.checkpoint.interval = 2
    reduce_model(cfg.model)


def reduce_pipeline(pipeline: Any) -> None:
    for transform in pipeline:
        if 'scale' in transform:
            transform.scale = (64, 64)
        if 'crop_size' in transform:
            transform.crop_size = CROP


def reduce_model(model: Any) -> None:
    backbone = model.backbone
    if 'ProbeBackbone' in backbone.type:
        return
    if 'EfficientNet' in backbone.type:
        backbone.pretrained = False
        if model.type == 'EncoderDecoder':
            model.data_preprocessor.size = CROP
        else:
            model.test_cfg.update(score_thr=0.0, max_per_img=5)
        return
    backbone.init_cfg = None
    if backbone.type == 'HRNet':
        widths = [4, 8, 16, 32]
        for i in range(1, 5):
            stage = backbone.extra[f'stage{i}']
            stage.update(num_modules=1, num_blocks=(1,) * i, num_channels=tuple(widths[:i]))
    else:
        widths = [8, 16, 32, 64] if backbone.depth < 50 else [32, 64, 128, 256]
        backbone.update(base_channels=8, stem_channels=8)
    if model.type == 'EncoderDecoder':
        model.decode_head.update(in_channels=widths[-1], channels=64)
        model.data_preprocessor.size = CROP
        if model.test_cfg.mode == 'slide':
            model.test_cfg.update(crop_size=CROP, stride=(32, 32))
        return
    neck = model.neck[0] if isinstance(model.neck, list) else model.neck
    neck.in_channels = widths
    if 'roi_head' not in model:
        model.test_cfg.update(score_thr=0.0, max_per_img=5)
        return
    model.test_cfg.rcnn.update(score_thr=0.0, max_per_img=5)
    for proposals in (model.train_cfg.rpn_proposal, model.test_cfg.rpn):
        proposals.update(nms_pre=50, max_per_img=20)
    stages = model.train_cfg.rcnn
    for stage in stages if isinstance(stages, list) else [stages]:
        stage.sampler.num = 16
    heads = model.roi_head.bbox_head
    for head in heads if isinstance(heads, list) else [heads]:
        head.fc_out_channels = 16
    if 'mask_head' in model.roi_head:
        model.roi_head.mask_head.update(num_convs=1, conv_out_channels=16)
    if 'semantic_head' in model:
        model.semantic_head.inner_channels = 32
