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
