"""tools/analysis_tools/visualize_predictions.py on tiny models with random weights."""

import mmcv
import pytest


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
    ('arguments', 'message'),
    [
        ([], 'does not fit'),
        (['--cfg-options', "model.decode_head.block.position='none'"], "position='none'"),
        (['--rows', '0'], '--rows: 0: give a whole number of at least 1'),
        (['--baseline', 'no.py', 'no.pth'], '--baseline: no such file: no.py'),
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
    misfit,
    arguments,
    message,
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'broken.png').write_text('no image')
    checkpoint = misfit(trained(segmentor))
    fill = {'{image}': squares / 'images/1.png'}
    arguments = [fill.get(argument, argument) for argument in arguments]
    arguments += ['--out-dir', tmp_path / 'out.png']
    with pytest.raises(SystemExit) as stop:
        call('analysis_tools/visualize_predictions', segmentor, checkpoint, *arguments)
    assert stop.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert message in last
    if message == 'does not fit':
        assert (
            '1 missing (decode_head.block.key.bias), 1 unexpected (decode_head.more' in last
        )
    assert not (tmp_path / 'out.png').exists()
