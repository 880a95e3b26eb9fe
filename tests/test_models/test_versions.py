"""Weights are saved with the version of their names, and read by it."""

import io
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmgcnl.layers import GCNonLocal2d

mmseg = pytest.importorskip('mmseg')
from mmgcnl.apis import build_model, init_model  # noqa: E402
from tests.builders import write_inference_model  # noqa: E402

# What version 1 saves. Released weights have these names: whoever changes them counts
# GCNonLocal2d._version up and converts the old ones in _load_from_state_dict.
CONVS = ['query', 'key', 'value', 'out']
VERSION_1 = {
    *(f'{conv}.{kind}' for conv in CONVS for kind in ('weight', 'bias')),
    'context.fc.weight',
    'context.fc.bias',
    'position.y.weight',
    'position.x.weight',
}


def test_names_of_version_1():
    assert GCNonLocal2d._version == 1
    state = GCNonLocal2d(16).state_dict()
    assert set(state) == VERSION_1
    independent = GCNonLocal2d(16, position='relative_raw_content_independent')
    assert set(independent.state_dict()) == VERSION_1 | {'position.u'}
    without = GCNonLocal2d(16, context=None, position=None, norm_layer=torch.nn.BatchNorm2d)
    assert {name for name in without.state_dict() if not name.startswith('norm.')} == {
        name for name in VERSION_1 if name.split('.')[0] in CONVS and name != 'out.bias'
    }
    assert state._metadata['']['version'] == 1


def newer(state, prefix=''):
    state._metadata[prefix]['version'] = GCNonLocal2d._version + 1
    file = io.BytesIO()
    torch.save(dict(state_dict=state), file)
    return file.getvalue()


def test_newer_version_is_refused():
    block = GCNonLocal2d(16)
    saved = torch.load(io.BytesIO(newer(block.state_dict())), weights_only=True)
    with pytest.raises(RuntimeError, match='version 2 of GCNonLocal2d, .* update mmgcnl'):
        block.load_state_dict(saved['state_dict'])


@pytest.mark.parametrize('wrapped', [False, True])
def test_init_model_reads_the_version(tmp_path, wrapped):
    config, weights = write_inference_model(tmp_path, 'semantic')
    model = build_model(Config.fromfile(config))
    model = torch.nn.ModuleDict(dict(module=model)) if wrapped else model
    torch.save(dict(state_dict=model.state_dict()), weights)
    init_model(config, weights, 'cpu')
    block = 'module.decode_head.block' if wrapped else 'decode_head.block'
    Path(weights).write_bytes(newer(model.state_dict(), block))
    with pytest.raises(ValueError, match=r'decode_head\.block\.\*: .* update mmgcnl'):
        init_model(config, weights, 'cpu')
