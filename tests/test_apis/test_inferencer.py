"""From images to predictions, overlays and files."""

import mmcv
import numpy as np
import pytest
import torch
from mmengine.structures import PixelData

from mmgcnl.apis import Inferencer, find_images
from tests.builders import write_inference_model


@pytest.mark.parametrize('batch_size', [1, 2])
def test_semantic(tmp_path, images, batch_size):
    inferencer = Inferencer(*write_inference_model(tmp_path, 'semantic'), device='cpu')
    one = mmcv.imread(str(images / '1.png'))
    alone = inferencer(one)['predictions'][0]['sem_seg']
    assert alone.shape == (60, 40)
    assert set(np.unique(alone)) <= {0, 1, 2}
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
    assert (overlay == results['visualization'][number]).all()
    assert not results['failed']


def test_goes_on_past_broken_files(tmp_path, images):
    (images / '0a.png').write_text('no image')
    inferencer = Inferencer(*write_inference_model(tmp_path, 'semantic'), device='cpu')
    results = inferencer(str(images), out_dir=tmp_path / 'out')
    assert len(results['predictions']) == 3
    assert list(results['failed']) == [str(images / '0a.png')]
    assert len(list((tmp_path / 'out/labels').iterdir())) == 3


def test_a_folder_of_folders(tmp_path, images):
    with pytest.raises(FileNotFoundError) as error:
        find_images(str(tmp_path))
    assert str(error.value) == (
        f'no image: {tmp_path} itself; give its folders ({images.name}), or '
        f"'{tmp_path}/**/*.jpg'"
    )


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


def test_panoptic_segments(tmp_path):
    """mmdet's ids are class + 1000 * instance, and the number of classes is void."""
    inferencer = Inferencer(*write_inference_model(tmp_path, 'panoptic'), device='cpu')
    ids = torch.tensor([[[1001, 1001, 2001, 2, 3, 1000]]])
    sample = PixelData(metainfo={})
    sample = type('Sample', (dict,), dict(pred_panoptic_seg=PixelData(sem_seg=ids)))()
    sample['pred_panoptic_seg'] = sample.pred_panoptic_seg
    prediction = inferencer.postprocess([sample], [])['predictions'][0]
    segments = {s['id']: s for s in prediction['segments_info']}
    kinds = [
        (segments[i]['category_id'], segments[i]['isthing'], segments[i]['area'])
        if i
        else None
        for i in prediction['panoptic_seg'][0].tolist()
    ]
    assert kinds == [(1, 1, 2), (1, 1, 2), (1, 1, 1), (2, 0, 1), None, (0, 1, 1)]
    # two dogs, not one
    assert len(segments) == 4
