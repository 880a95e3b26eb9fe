"""tools/analysis_tools/visualize_attention.py on tiny models with random weights."""

import mmcv
import pytest


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


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['{image}', '--point', '3,4'], 'does not fit'),
        (
            [
                *('{image}', '--point', '3,4', '--cfg-options'),
                "model.decode_head.block.position='none'",
            ],
            "position='none'",
        ),
        (['{image}', '--point', '3'], 'give X,Y in pixels'),
        (['no.png', '--point', '3,4'], 'image: no such file: no.png'),
        (['broken.png', '--point', '3,4'], 'does not decode'),
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
    arguments += ['--out', tmp_path / 'out.png']
    with pytest.raises(SystemExit) as stop:
        call('analysis_tools/visualize_attention', segmentor, checkpoint, *arguments)
    assert stop.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert message in last
    if message == 'does not fit':
        assert (
            '1 missing (decode_head.block.key.bias), 1 unexpected (decode_head.more' in last
        )
    assert not (tmp_path / 'out.png').exists()
