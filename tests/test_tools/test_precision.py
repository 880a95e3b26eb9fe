"""50 iterations in half precision: losses and weights stay finite, on both tasks."""

import json
import math
from pathlib import Path

import pytest
import torch

NEEDS_GPU = pytest.mark.skipif(
    not torch.cuda.is_available(), reason='no GPU to train on in half precision'
)
OPTIONS = (
    '--cfg-options',
    'model.backbone.init_cfg=None',
    'optim_wrapper.optimizer.lr=0.001',
    'default_hooks.checkpoint.interval=50',
)
# PyTorch 2.13 on a CPU: the bfloat16 gradient of a 3x3 convolution of stride 2 is
# arbitrary when its input is 1x1, as that of the pyramid's last level is at 64x64.
LARGER = 'train_dataloader.dataset.pipeline.2.scale=(128,128)'


@pytest.fixture(autouse=True)
def one_thread():
    """Faster than several for maps this small."""
    number = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(number)


def losses(work_dir: Path) -> list[float]:
    log = next(work_dir.glob('*/vis_data/scalars.json'))
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [line['loss'] for line in lines if 'loss' in line]


def assert_stays_finite(call, config: Path, tmp_path: Path, kind: str) -> None:
    larger = [LARGER] if config.name == 'detector.py' else []

    def train(folder: str, iterations: int, *amp: str) -> list[float]:
        work_dir = tmp_path / folder
        options = (*OPTIONS, *larger, f'train_cfg.max_iters={iterations}')
        call('train', config, *amp, '--work-dir', work_dir, *options)
        return losses(work_dir)

    half = train('half', 50, '--amp', kind)
    single = train('single', 1)
    assert len(half) == 50 and all(map(math.isfinite, half))
    assert half[0] != single[0]  # or the precision was not half
    assert half[0] == pytest.approx(single[0], rel=0.05)
    weights = torch.load(tmp_path / 'half/iter_50.pth')['state_dict']
    assert all(value.isfinite().all() for value in weights.values())


@pytest.mark.skipif(torch.cuda.is_available(), reason='trains on the GPU there is')
@pytest.mark.parametrize('task', ['segmentor', 'detector'])
def test_bfloat16_without_a_gpu(call, request, tmp_path, task):
    config = request.getfixturevalue(task)
    assert_stays_finite(call, config, tmp_path, 'bf16')


@NEEDS_GPU
@pytest.mark.parametrize('kind', ['fp16', 'bf16'])
@pytest.mark.parametrize('task', ['segmentor', 'detector'])
def test_with_a_gpu(call, request, tmp_path, task, kind):
    config = request.getfixturevalue(task)
    assert_stays_finite(call, config, tmp_path, kind)
