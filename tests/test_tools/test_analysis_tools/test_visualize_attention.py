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
    large = mmcv.imread(str(tmp_path / 'x/y.png'))
    assert large.std() > 10
    call('analysis_tools/visualize_attention', *arguments, '--mean')
    small = mmcv.imread(str(tmp_path / 'x/y.png'))
    assert small.std() > 10
    assert small.size < large.size


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
