"""The scenes and the picture of `make demo`."""

import mmcv
import pytest
import torch

from mmgcnl.apis import init_model
from mmgcnl.datasets.probe import make_probe
from tests.builders import ROOT

CONFIGS = ROOT / 'configs/probe'


def test_picture_of_trained_models(call, tmp_path):
    make_probe(tmp_path / 'data/seed3', num_train=0, num_val=1, seed=3)
    for name in ('nl', 'gcnl'):
        folder = tmp_path / name / 'seed3'
        folder.mkdir(parents=True)
        model = init_model(str(CONFIGS / f'{name}_probe.py'), None)
        torch.save(dict(state_dict=model.state_dict(), meta={}), folder / 'iter_1.pth')
        (folder / 'last_checkpoint').write_text(str(folder / 'iter_1.pth'))
    call('probe', 'picture', '--work-dir', tmp_path, '--seed', 3)
    # A row for each crate; the image and the means of both blocks.
    height, width = mmcv.imread(tmp_path / 'attention_seed3.png').shape[:2]
    assert 0.7 * height < width < height


def test_picture_without_models(call, tmp_path, capsys):
    make_probe(tmp_path / 'data/seed0', num_train=0, num_val=1)
    with pytest.raises(SystemExit) as exit:
        call('probe', 'picture', '--work-dir', tmp_path)
    assert exit.value.code == 2
    assert 'configs/studies/demo.yml' in capsys.readouterr().err


def test_scenes_have_a_folder_for_each_seed(call, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        'mmgcnl.datasets.probe.make_probe', lambda root, seed: drawn.append((root, seed))
    )
    call('probe', 'data', '--seed', 2)
    call('probe', 'data', '--out', 'here')
    assert [(str(root), seed) for root, seed in drawn] == [
        ('work_dirs/probe/data/seed2', 2),
        ('here', 0),
    ]
