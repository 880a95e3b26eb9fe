"""From images to predictions, overlays and files."""

import mmcv
import numpy as np
import pytest
import torch

from mmgcnl.apis import Inferencer, find_images
from tests.builders import write_inference_model


@pytest.mark.parametrize('batch_size', [1, 2])
def test_semantic(tmp_path, images, batch_size):
    inferencer = Inferencer(*write_inference_model(tmp_path, 'semantic'), device='cpu')
    one = mmcv.imread(str(images / '1.png'))
    alone = inferencer(one)['predictions'][0]['sem_seg']
    assert alone.shape == (60, 40)
    assert set(np.unique(alone)) <= {0, 1, 2}
    samples = inferencer(one, return_datasamples=True)['predictions']
    (drawn,) = inferencer.visualize([one], samples)
    (named,) = inferencer.visualize([one], samples, with_labels=True)
    assert (named != drawn).any()
    found = inferencer.postprocess(samples, [drawn])  # as of any inferencer of mmengine
    assert (found['predictions'][0]['sem_seg'] == alone).all()
    if batch_size > 1:  # of one size, as mmseg needs it
        (images / '0.png').unlink()
        (images / '2.png').unlink()
        mmcv.imwrite(one, str(images / '3.png'))
    out = tmp_path / 'out'
    results = inferencer(str(images), batch_size=batch_size, out_dir=out, return_vis=True)
    files = sorted(path.name for path in images.iterdir())
    for folder in ('labels', 'overlays'):
        assert sorted(path.name for path in (out / folder).iterdir()) == files
    number = files.index('1.png')
    path = results['predictions'][number]['sem_seg_path']
    assert (mmcv.imread(path, 'unchanged') == alone).all()
    overlay = mmcv.imread(str(out / 'overlays/1.png'))[..., ::-1]
    assert (overlay == results['visualization'][number]).all() and (overlay == drawn).all()
    assert not results['failed']


def test_goes_on_past_broken_files(tmp_path, images):
    (images / '0a.png').write_text('no image')
    inferencer = Inferencer(*write_inference_model(tmp_path, 'semantic'), device='cpu')
    results = inferencer(str(images), out_dir=tmp_path / 'out')
    assert len(results['predictions']) == 3
    assert list(results['failed']) == [str(images / '0a.png')]
    assert len(list((tmp_path / 'out/labels').iterdir())) == 3


@pytest.mark.parametrize('batch_size', [1, 2, 3])
def test_goes_on_past_images_that_the_model_refuses(tmp_path, images, batch_size):
    """Of different sizes in one batch, and too large for the memory."""
    inferencer = Inferencer(*write_inference_model(tmp_path, 'semantic'), device='cpu')
    alone = [inferencer(str(images / f'{i}.png'))['predictions'][0] for i in (0, 2)]
    run = inferencer.model.forward

    def forward(inputs, *args, **kwargs):
        if inputs.shape[-2] > inputs.shape[-1]:  # image 1
            raise torch.cuda.OutOfMemoryError('CUDA out of memory.\nTried to allocate')
        return run(inputs, *args, **kwargs)

    inferencer.model.forward = forward
    results = inferencer(str(images), batch_size=batch_size, out_dir=tmp_path / 'out')
    assert results['failed'] == {
        str(images / '1.png'): 'the model fails on it: '
        'OutOfMemoryError: CUDA out of memory.'
    }
    assert len(results['predictions']) == 2
    for i, expected in zip((0, 2), alone):
        labels = mmcv.imread(str(tmp_path / f'out/labels/{i}.png'), 'unchanged')
        assert (labels == expected['sem_seg']).all()


def test_image_that_cannot_be_drawn(tmp_path, images):
    inferencer = Inferencer(*write_inference_model(tmp_path, 'semantic'), device='cpu')
    draw = inferencer.overlays.draw

    def fail(image, *args):
        if image.endswith('0.png'):
            raise ValueError('too large')
        return draw(image, *args)

    inferencer.overlays.draw = fail
    results = inferencer(str(images), out_dir=tmp_path / 'out')
    reason = 'it cannot be drawn: ValueError: too large'
    assert results['failed'] == {str(images / '0.png'): reason}
    assert len(results['predictions']) == 2


def test_inputs(tmp_path, images):
    inferencer = Inferencer(*write_inference_model(tmp_path, 'semantic'), device='cpu')
    (images / 'notes.txt').write_text('no image, and not taken for one')
    every = [str(images / f'{i}.png') for i in range(3)]
    assert find_images(str(images)) == every
    assert find_images([str(images / '[12].png'), every[0]]) == [
        *every[1:],
        every[0],
    ]
    for missing in (images / 'x.png', images / '*.bmp'):
        with pytest.raises(FileNotFoundError, match='no image: '):
            find_images(str(missing))
    mmcv.imwrite(np.zeros((4, 4, 3), np.uint8), str(tmp_path / 'other/0.jpg'))
    with pytest.raises(ValueError, match='would be written to the same file'):
        inferencer([str(images), str(tmp_path / 'other')], out_dir=tmp_path / 'out')
    assert not (tmp_path / 'out').exists()
