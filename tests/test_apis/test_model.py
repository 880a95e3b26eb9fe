"""Models from their configs and checkpoints."""

import pytest
import torch
from mmengine.config import Config

from mmgcnl.apis import Inferencer, image_pipeline, init_model
from tests.builders import NAMES, write_inference_model


def test_model_that_does_not_fit(tmp_path):
    config, weights = write_inference_model(tmp_path, 'semantic')
    state = torch.load(weights)
    state['more.weight'] = state.pop('decode_head.block.key.bias')
    state['decode_head.conv_seg.bias'] = torch.zeros(9)
    torch.save(state, weights)
    with pytest.raises(ValueError) as error:
        init_model(config, weights)
    assert str(error.value) == (
        f'{weights} does not fit {config}: of its keys, 1 missing '
        '(decode_head.block.key.bias), 1 unexpected (more.weight), 1 of another shape '
        '(decode_head.conv_seg.bias); give the config that it was trained with'
    )
    with pytest.raises(FileNotFoundError, match='no such checkpoint: none.pth'):
        init_model(config, 'none.pth')
    (tmp_path / 'text.pth').write_text('no weights')
    with pytest.raises(ValueError, match='text.pth is not a checkpoint'):
        init_model(config, str(tmp_path / 'text.pth'))


def test_classes_and_pipeline_of_several_data_sets(tmp_path):
    config, weights = write_inference_model(tmp_path, 'semantic')
    cfg = Config.fromfile(config)
    one = cfg.test_dataloader.dataset
    cfg.test_dataloader.dataset = dict(type='ConcatDataset', datasets=[one, one])
    assert init_model(cfg, weights, 'cpu').dataset_meta['classes'] == NAMES
    assert image_pipeline(cfg).transforms
    cfg.test_dataloader = None
    with pytest.raises(ValueError, match=r'test_dataloader of the config has no dataset'):
        image_pipeline(cfg)


def test_colors_of_a_segmentor_without_a_palette(tmp_path):
    config, weights = write_inference_model(tmp_path, 'semantic')
    cfg = Config.fromfile(config)
    cfg.test_dataloader.dataset.metainfo = dict(classes=NAMES)
    cfg.visualizer = None
    palette = init_model(cfg, weights, 'cpu').dataset_meta['palette']
    assert len(palette) == len(NAMES) and len(palette[0]) == 3
    assert Inferencer(cfg, weights, 'cpu').visualizer is not None


def test_data_parallel_weights_and_sync_bn(tmp_path):
    norm = dict(norm_cfg=dict(type='SyncBN'))
    config, weights = write_inference_model(tmp_path, 'semantic', norm)
    state = {f'module.{key}': value for key, value in torch.load(weights).items()}
    torch.save(dict(state_dict=state), weights)
    model = init_model(config, weights, 'cpu')
    assert not model.training
    assert model.dataset_meta['classes'] == NAMES
    model(torch.randn(1, 3, 16, 16))
