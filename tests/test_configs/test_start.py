"""The attention of the paper's rows depends on the query, fresh and after some training."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import nn

from mmgcnl.analysis import iter_attention, mean_cosine_distance
from mmgcnl.datasets.probe import draw_scene

ROOT = Path(__file__).parents[2]
TABLES = yaml.safe_load((ROOT / 'configs/paper_tables.yml').read_text())
CONFIGS = sorted({row['config'] for table in TABLES for row in table['rows']})


def block_of(config: str) -> nn.Module | None:
    """The non-local block of a row at its full width, as a training starts with it."""
    cfg = Config.fromfile(ROOT / config)
    init_default_scope(cfg.default_scope)
    if cfg.model.type == 'EncoderDecoder':
        head = cfg.model.decode_head
        if head.type != 'GCNLHead':
            return None
        return MODELS.build(
            dict(type='GCNonLocal2d', in_channels=head.channels, **head.block)
        )
    neck = cfg.model.neck
    if not isinstance(neck, list) or 'NonLocal' not in neck[1].get('refine', {}).get(
        'type', 'NonLocal'
    ):
        return None
    built = ROOT_MODELS.build(neck[1])
    built.init_weights()
    return built.refine


def distance(block: nn.Module, x: torch.Tensor) -> float:
    attention = torch.cat(list(iter_attention(block.eval(), x)), dim=2)
    return mean_cosine_distance(attention).mean().item()


@pytest.mark.parametrize('config', CONFIGS)
def test_attention_of_a_fresh_row_depends_on_the_query(config):
    torch.manual_seed(0)
    block = block_of(config)
    if block is None:
        assert 'gcnl' not in config and '_ebfpn' not in config
        return
    detection = 'fpn' in config
    x = torch.randn(1, 256 if detection else 512, 20, 20)
    # As behind a convolution, a norm and ReLU; the mean of a pyramid has none.
    with torch.no_grad():
        found = distance(block, x if detection else x.relu())
    assert found > (0.1 if detection else 0.001)


@pytest.mark.parametrize('name', ['nl', 'gcnl'])
@pytest.mark.parametrize('init', ['xavier', 'torch'])
def test_attention_depends_on_the_query_after_100_iterations(name, init):
    """On drawn scenes, with the recipe of the probe's configs."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    cfg = Config.fromfile(ROOT / f'configs/probe/{name}_probe.py')
    cfg.model.decode_head.block.init = init
    init_default_scope('mmseg')
    model = MODELS.build(cfg.model)
    model.init_weights()
    block = model.decode_head.block
    scenes = [draw_scene(rng) for _ in range(64)]
    images = torch.from_numpy(np.stack([image for image, _ in scenes])).permute(0, 3, 1, 2)
    images = (images.float() - 110) / 60
    samples = []
    for _, labels in scenes:
        sample = SegDataSample(metainfo=dict(img_shape=(48, 48), pad_shape=(48, 48)))
        sample.gt_sem_seg = PixelData(data=torch.from_numpy(labels).long()[None])
        samples.append(sample)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-4)
    seen = []
    block.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    model.train()
    before = {key: value.clone() for key, value in block.state_dict().items()}
    for _ in range(100):
        chosen = torch.randperm(len(scenes))[:16]
        losses = model(images[chosen], [samples[i] for i in chosen], mode='loss')
        optimizer.zero_grad()
        losses['decode.loss_ce'].backward()
        optimizer.step()
    assert not torch.equal(before['query.weight'], block.query.weight)
    with torch.no_grad():
        assert distance(block, seen[-1]) > 0.005
