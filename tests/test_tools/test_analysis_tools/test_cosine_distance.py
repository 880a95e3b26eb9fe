"""tools/analysis_tools/cosine_distance.py on tiny models with random weights."""

import copy
import json

import mmcv
import numpy as np
import pytest
from mmengine.config import Config

from mmgcnl.analysis import Split, measure_distances, set_norm_statistics
from mmgcnl.apis import image_pipeline, init_model
from tests.builders import ROOT, free_port


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


def test_points_follow_the_pipeline_of_the_split(call, trained, tmp_path, segmentor):
    checkpoint = trained(segmentor)
    found = []
    for splits in (('val', 'test'), ('val',)):
        cfg = Config.fromfile(segmentor)
        for split in splits:
            pipeline = copy.deepcopy(cfg[f'{split}_dataloader'].dataset.pipeline)
            pipeline.insert(-1, dict(type='RandomFlip', prob=1.0))
            cfg[f'{split}_dataloader'].dataset.pipeline = pipeline
        cfg.dump(tmp_path / 'flipped.py')
        out = tmp_path / 'distance.json'
        arguments = [tmp_path / 'flipped.py', checkpoint, '--json', out]
        call('analysis_tools/cosine_distance', *arguments)
        found.append(json.loads(out.read_text())['blocks'])
    assert found[0] == found[1]


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


def test_two_processes_equal_one(call, run, trained, tmp_path, segmentor):
    """Also with a process that loads the images, and with fewer images for one of them."""
    one, two = tmp_path / 'one.json', tmp_path / 'two.json'
    checkpoint = trained(segmentor)
    call('analysis_tools/cosine_distance', segmentor, checkpoint, '--json', one)
    script = ROOT / 'tools/analysis_tools/dist_cosine_distance.sh'
    options = ['--json', two, '--num-workers', 1]
    run('bash', script, segmentor, checkpoint, 2, *options, PORT=free_port())
    (first,), (second,) = (
        json.loads(path.read_text())['blocks'].values() for path in (one, two)
    )
    assert second['num_maps'] == first['num_maps'] == 5
    for kind in ('input', 'output', 'attention'):
        for value in ('mean', 'std'):
            assert second[kind][value] == pytest.approx(first[kind][value], abs=1e-9)
    assert second['classes'].keys() == first['classes'].keys()
    for name, entry in first['classes'].items():
        assert second['classes'][name]['queries'] == entry['queries']
        assert second['classes'][name]['attention'] == pytest.approx(entry['attention'])


def test_images_are_decoded_once(call, trained, tmp_path, segmentor, monkeypatch):
    """And with --no-classes the label maps not at all."""
    decoded = []
    decode = mmcv.imfrombytes

    def count(*args, **kwargs):
        decoded.append(kwargs.get('flag'))
        return decode(*args, **kwargs)

    monkeypatch.setattr(mmcv, 'imfrombytes', count)
    checkpoint = trained(segmentor)
    base = ['analysis_tools/cosine_distance', segmentor, checkpoint, '--num-images', 3]
    out = tmp_path / 'distance.json'
    call(*base, '--json', out, '--no-classes')
    (entry,) = json.loads(out.read_text())['blocks'].values()
    assert 'classes' not in entry and 0 < entry['attention']['mean'] <= 0.5
    # the check of the first sample decodes an image and its label map
    assert sorted(decoded) == ['color'] * 4 + ['unchanged']
    decoded.clear()
    call(*base)
    assert sorted(decoded) == ['color'] * 4 + ['unchanged'] * 4


def test_distances_at_iteration_0(call, capsys, tmp_path, segmentor):
    """Without a checkpoint: the fresh model, with statistics of training images."""
    cfg = Config.fromfile(segmentor)
    cfg.model.backbone.update(init_cfg=None, norm_eval=False)
    cfg.randomness = dict(seed=3)
    cfg.dump(tmp_path / 'fresh.py')
    found = []
    for name in ('one.json', 'again.json'):
        out = tmp_path / name
        call('analysis_tools/cosine_distance', tmp_path / 'fresh.py', '--json', out)
        found.append(json.loads(out.read_text())['blocks'])
    assert found[0] == found[1]
    (block,) = found[0].values()
    assert block['output'] == dict(mean=None, std=None)  # it adds nothing yet
    assert 0 < block['input']['mean'] < 0.5

    model = init_model(cfg, None, 'cpu')
    split = Split(cfg, 'val')
    distances = []
    for _ in range(2):
        report = measure_distances(model, image_pipeline(cfg, split='val'), split)
        distances.append(report['blocks']['decode_head.block']['attention']['mean'])
        set_norm_statistics(model, cfg)
    without, with_statistics = distances
    assert block['attention']['mean'] == pytest.approx(with_statistics, rel=1e-6)
    assert with_statistics != pytest.approx(without, rel=0.05)

    capsys.readouterr()
    with pytest.raises(SystemExit, match='2'):
        call('analysis_tools/cosine_distance', segmentor)
    assert '--cfg-options model.backbone.init_cfg=None' in capsys.readouterr().err
