"""Wrong input to the tools that look inside a model is one line, and nothing is written."""

import pytest
import torch

from tests.builders import save_random_weights

POINT = ['{image}', '--point', '3,4']
NO_SUCH_FORM = ['--cfg-options', "model.decode_head.block.position='none'"]


@pytest.mark.parametrize(
    ('tool', 'arguments', 'message'),
    [
        ('cosine_distance', ['--json'], 'does not fit'),
        (
            'cosine_distance',
            ['--num-images', '0', '--json'],
            'give a whole number of at least 1',
        ),
        ('visualize_attention', [*POINT, '--out'], 'does not fit'),
        ('visualize_attention', [*POINT, *NO_SUCH_FORM, '--out'], "position='none'"),
        (
            'visualize_attention',
            ['{image}', '--point', '3', '--out'],
            'give X,Y in pixels',
        ),
        ('visualize_attention', ['broken.png', *POINT[1:], '--out'], 'does not decode'),
        ('visualize_predictions', ['--out-dir'], 'does not fit'),
        ('visualize_predictions', [*NO_SUCH_FORM, '--out-dir'], "position='none'"),
        (
            'visualize_predictions',
            ['--baseline', 'no.py', 'no.pth', '--out-dir'],
            '--baseline: no such file: no.py',
        ),
    ],
)
def test_bad_input(
    tool, arguments, message, call, capsys, monkeypatch, tmp_path, segmentor, squares
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'broken.png').write_text('no image')
    checkpoint = save_random_weights(segmentor)
    state = torch.load(checkpoint)
    del state['state_dict']['decode_head.block.key.bias']
    state['state_dict']['decode_head.more'] = torch.zeros(1)
    torch.save(state, checkpoint)
    fill = {'{image}': squares / 'images/1.png'}
    arguments = [fill.get(argument, argument) for argument in arguments]
    out = tmp_path / 'out.png'
    with pytest.raises(SystemExit, match='2'):
        call(f'analysis_tools/{tool}', segmentor, checkpoint, *arguments, out)
    last = capsys.readouterr().err.splitlines()[-1]
    assert message in last
    if message == 'does not fit':
        assert (
            '1 missing (decode_head.block.key.bias), 1 unexpected (decode_head.more' in last
        )
    assert not out.exists()
