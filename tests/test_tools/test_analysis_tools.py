"""The tools that look into a trained model, on tiny models with random weights."""

import json
import sys
from pathlib import Path

import mmcv
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

TOOLS = Path(__file__).parents[2] / 'tools'


@pytest.fixture
def segmentor(segmentor):
    """With a map of 4 x 4 cells: of one cell there is nothing to measure."""
    text = segmentor.read_text()
    old = 'norm_eval=True,'
    assert old in text
    new = f'{old} strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4),'
    segmentor.write_text(text.replace(old, new))
    return segmentor


@pytest.fixture
def detector(detector):
    """With a map of 8 x 8 cells and keys on every second."""
    detector.write_text(detector.read_text().replace('scale=(64, 64)', 'scale=(256, 256)'))
    return detector


@pytest.fixture
def trained():
    """Give a config's model random weights; the path of its checkpoint."""

    def trained(config):
        cfg = Config.fromfile(config)
        init_default_scope(cfg.default_scope)
        model = MODELS.build(cfg.model)
        for parameter in model.parameters():
            if parameter.dim() > 1:  # the block's output layer, too
                nn.init.xavier_normal_(parameter)
        path = str(config).replace('.py', '.pth')
        torch.save(dict(state_dict=model.state_dict(), meta={}), path)
        return path

    return trained


@pytest.mark.parametrize(
    ('config', 'block'),
    [
        ('segmentor', 'decode_head.block'),
        ('detector', 'neck.1.refine'),
    ],
)
def test_cosine_distance(request, call, trained, capsys, tmp_path, config, block):
    config = request.getfixturevalue(config)
    out = tmp_path / 'new' / 'distance.json'
    arguments = [config, trained(config), '--num-images', '3', '--json', out]
    call('analysis_tools/cosine_distance', *arguments)
    report = json.loads(out.read_text())
    assert report['num_images'] == 3
    (entry,) = report['blocks'].values()
    assert list(report['blocks']) == [block]
    for kind in ('input', 'output', 'attention'):
        assert 0 < entry[kind]['mean'] <= 0.5
    heads = entry['attention']['heads']
    assert len(heads) == 8
    assert np.mean(heads) == pytest.approx(entry['attention']['mean'])
    for of_class in entry['classes'].values():
        assert sum(of_class['attention'].values()) == pytest.approx(1)
        assert sum(of_class['uniform'].values()) == pytest.approx(1)
    assert 'square' in entry['classes']
    printed = capsys.readouterr().out
    assert f'{block} (GCNonLocal2d), 3 images' in printed
    assert f'{entry["attention"]["mean"]:.3f}' in printed


def test_classes_are_those_of_the_truth(call, trained, tmp_path, segmentor, squares):
    """As many queries of each class as cells, of which each is 8 x 8 pixels."""
    out = tmp_path / 'distance.json'
    arguments = [segmentor, trained(segmentor), '--json', out]
    call('analysis_tools/cosine_distance', *arguments)
    (entry,) = json.loads(out.read_text())['blocks'].values()
    found = {name: of_class['queries'] for name, of_class in entry['classes'].items()}
    assert sum(found.values()) == 5 * 16
    maps = [mmcv.imread(str(path), 'unchanged') for path in (squares / 'labels').iterdir()]
    # the center of a cell is between two pixels: either will do
    counts = [sum(int(label[o::8, o::8].sum()) for label in maps) for o in (3, 4)]
    assert min(counts) <= found['square'] <= max(counts)


def test_distances_at_iteration_0(call, capsys, tmp_path, segmentor):
    """Without a checkpoint the model is the one that a training starts from."""
    options = ['--cfg-options', 'model.backbone.init_cfg=None', 'randomness.seed=3']
    fresh, started = tmp_path / 'fresh.json', tmp_path / 'started.json'
    call('analysis_tools/cosine_distance', segmentor, '--json', fresh, *options)
    lr = 'optim_wrapper.optimizer.lr=0.0'
    call('train', segmentor, '--work-dir', tmp_path / 'run', *options, lr)
    checkpoint = tmp_path / 'run/iter_1.pth'
    call('analysis_tools/cosine_distance', segmentor, checkpoint, '--json', started)
    heads = []
    for path in (fresh, started):
        (block,) = json.loads(path.read_text())['blocks'].values()
        heads.append(block['attention']['heads'])
        assert block['output'] == dict(mean=None, std=None)  # it adds nothing yet
        assert 0 < block['input']['mean'] < 0.5
    assert min(heads[0]) > 0
    assert heads[0] == pytest.approx(heads[1], rel=0.02)

    capsys.readouterr()
    with pytest.raises(SystemExit, match='2'):
        call('analysis_tools/cosine_distance', segmentor)
    assert '--cfg-options model.backbone.init_cfg=None' in capsys.readouterr().err


def test_visualize_attention(call, trained, capsys, tmp_path, segmentor, squares):
    checkpoint = trained(segmentor)
    arguments = [
        *(segmentor, checkpoint, squares / 'images/1.png'),
        *('--point', '3,4', '--point', '20,31', '--names', 'a', 'b'),
        *('--config2', segmentor, '--checkpoint2', checkpoint),
        *('--ground-truth', squares / 'labels/1.png', '--out', tmp_path / 'x/y.png'),
    ]
    call('analysis_tools/visualize_attention', *arguments)
    assert mmcv.imread(str(tmp_path / 'x/y.png')).std() > 10


@pytest.mark.parametrize('config', ['segmentor', 'detector'])
def test_visualize_predictions(request, call, trained, tmp_path, squares, config):
    config = request.getfixturevalue(config)
    checkpoint = trained(config)
    models = [config, checkpoint, '--baseline', config, checkpoint, '--names', 'a', 'b']
    out = tmp_path / 'figures'
    call(
        'analysis_tools/visualize_predictions',
        *(*models, '--num-images', '3', '--rows', '2', '--out-dir', out),
    )
    names = sorted(path.name for path in out.iterdir())
    assert names == ['predictions_001.png', 'predictions_002.png']
    two, one = (mmcv.imread(str(out / name)).shape for name in names)
    assert two[0] > 1.5 * one[0]
    images = squares / 'images'
    call(
        'analysis_tools/visualize_predictions',
        *(*models, '--images', images, '--num-images', '1', '--out-dir', tmp_path / 'b'),
    )
    without_truth = mmcv.imread(str(tmp_path / 'b/predictions_001.png')).shape
    assert without_truth[1] < one[1]


@pytest.mark.parametrize(
    ('tool', 'arguments', 'message'),
    [
        ('cosine_distance', [], 'does not fit'),
        ('cosine_distance', ['--num-images', '0'], 'give at least 1'),
        ('visualize_attention', ['{image}', '--point', '3,4'], 'does not fit'),
        ('visualize_attention', ['{image}', '--point', '3'], 'give X,Y in pixels'),
        ('visualize_attention', ['no.png', '--point', '3,4'], 'no such file: no.png'),
        ('visualize_attention', ['{broken}', '--point', '3,4'], 'does not decode'),
        ('visualize_predictions', [], 'does not fit'),
    ],
)
def test_bad_input(
    call,
    trained,
    capsys,
    monkeypatch,
    tmp_path,
    segmentor,
    squares,
    tool,
    arguments,
    message,
):
    monkeypatch.chdir(tmp_path)
    checkpoint = trained(segmentor)
    state = torch.load(checkpoint)
    del state['state_dict']['decode_head.block.key.bias']
    state['state_dict']['decode_head.more'] = torch.zeros(1)
    torch.save(state, checkpoint)
    (tmp_path / 'broken.png').write_text('no image')
    fill = {'{image}': squares / 'images/1.png', '{broken}': 'broken.png'}
    out = {'cosine_distance': '--json', 'visualize_attention': '--out'}
    arguments = [fill.get(argument, argument) for argument in arguments]
    arguments += [out.get(tool, '--out-dir'), tmp_path / 'out.png']
    with pytest.raises(SystemExit) as stop:
        call(f'analysis_tools/{tool}', segmentor, checkpoint, *arguments)
    assert stop.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert message in last
    if message == 'does not fit':
        assert (
            '1 missing (decode_head.block.key.bias), 1 unexpected (decode_head.more' in last
        )
    assert not (tmp_path / 'out.png').exists()


def test_no_block(call, trained, capsys, tmp_path, segmentor):
    text = segmentor.read_text().replace('GCNLHead', 'FCNHead')
    segmentor.write_text(text.replace('block=dict(attn_drop_rate=0.), ', ''))
    with pytest.raises(SystemExit) as stop:
        call('analysis_tools/cosine_distance', segmentor, trained(segmentor))
    assert stop.value.code == 2
    assert 'has no non-local block' in capsys.readouterr().err.splitlines()[-1]


def test_point_outside(call, trained, capsys, tmp_path, segmentor, squares):
    out = tmp_path / 'out.png'
    arguments = [segmentor, trained(segmentor), squares / 'images/1.png']
    arguments += ['--point', '32,4', '--out', out]
    with pytest.raises(SystemExit) as stop:
        call('analysis_tools/visualize_attention', *arguments)
    assert stop.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert 'the point 32,4 is outside of the image: x goes from 0 to 31' in last
    assert not out.exists()


def test_benchmark_attention(run, tmp_path):
    out = tmp_path / 'new' / 'attention.json'
    small = '--height 12 --width 9 --channels 16 --heads 2 --repeats 1'.split()
    small += ['--scales', '0.5', '1']
    skip = ['--skip', 'ours, dense', 'ours, dropout 0.1']
    tool = TOOLS / 'analysis_tools' / 'benchmark_attention.py'
    said = run(sys.executable, tool, *small, '--mode', 'train', '--json', out, *skip)
    written = json.loads(out.read_text())
    assert written['mode'] == 'train'
    for key in ('hardware', 'threads', 'torch', 'mmcv'):
        assert written[key]
    assert 'revision' in written  # None outside of a checkout
    assert list(written['results']) == ['6x4', '12x9']
    for contenders in written['results'].values():
        assert list(contenders) == [
            'floor',
            'NonLocal2d',
            'GeneralizedAttention',
            'ours, blockwise',
        ]
        assert all(c['error'] is None for c in contenders.values())
        assert all(c['median_seconds'] > 0 for c in contenders.values())
    assert out.with_suffix('.png').exists()
    assert 'ours, blockwise' in said


def test_benchmark_neck(run, tmp_path):
    out = tmp_path / 'neck.json'
    tool = TOOLS / 'analysis_tools' / 'benchmark_neck.py'
    run(sys.executable, tool, *'--shape 70 64 --repeats 1 --json'.split(), out)
    written = json.loads(out.read_text())['results']
    assert list(written) == ['refine block', 'neck']
    assert list(written['neck']) == ['BFP', 'BFP, no refinement', 'EBFPN']
    assert all(c['error'] is None for group in written.values() for c in group.values())


@pytest.mark.parametrize(
    ('tool', 'arguments', 'message'),
    [
        (
            'benchmark_attention',
            ['--height', '0'],
            '--height: 0: give a whole number of at least 1',
        ),
        ('benchmark_attention', ['--heads', '3'], '--channels 256 is not divisible by 4 x'),
        ('benchmark_attention', ['--skip', 'floor'], '--skip: cannot leave out floor'),
        (
            'benchmark_neck',
            ['--repeats', '0'],
            '--repeats: 0: give a whole number of at least 1',
        ),
        (
            'benchmark_neck',
            ['--shape', '0', '9'],
            '--shape: 0: give a whole number of at least 1',
        ),
    ],
)
def test_benchmarks_refuse(call, capsys, tool, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        call(f'analysis_tools/{tool}', *arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
