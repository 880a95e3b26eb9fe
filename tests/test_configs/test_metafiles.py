"""OpenMMLab's index: every config is in it, with the schedule that it has."""

from pathlib import Path

import pytest
import yaml
from mmengine.config import Config

ROOT = Path(__file__).parents[2]
FOLDERS = sorted({path.parent for path in ROOT.glob('configs/[!_]*/*.py')})


def test_index_lists_every_folder():
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    names = [f'configs/{folder.name}/metafile.yml' for folder in FOLDERS]
    assert index == dict(Import=names)


@pytest.mark.parametrize('folder', FOLDERS, ids=lambda folder: folder.name)
def test_metafile_lists_every_config(folder):
    metafile = yaml.safe_load((folder / 'metafile.yml').read_text())
    (collection,) = metafile['Collections']
    for path in (collection['README'], collection['Code']):
        assert (ROOT / path).is_file()
    paths = sorted(f'configs/{folder.name}/{path.name}' for path in folder.glob('*.py'))
    assert sorted(model['Config'] for model in metafile['Models']) == paths
    for model in metafile['Models']:
        assert model['Name'] == Path(model['Config']).stem
        assert model['In Collection'] == collection['Name']
        assert not {'Results', 'Weights'} & model.keys()
        cfg = Config.fromfile(ROOT / model['Config'])
        metadata = model['Metadata']
        assert metadata['Batch Size'] == cfg.auto_scale_lr.base_batch_size
        assert metadata.get('Epochs') == cfg.train_cfg.get('max_epochs')
        assert metadata.get('Iterations') == cfg.train_cfg.get('max_iters')
