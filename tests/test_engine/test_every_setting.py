"""In every setting, a training that was interrupted ends as one that was not."""

import random
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

SGD = dict(type='SGD', lr=0.005, momentum=0.9)
SETTINGS: dict[str, dict[str, Any]] = dict(
    plain={},
    accumulated=dict(optim_wrapper=dict(optimizer=SGD, accumulative_counts=2)),
    # 15 iterations are three updates and a part of one, which mmengine weights differently.
    accumulated_by_four=dict(optim_wrapper=dict(optimizer=SGD, accumulative_counts=4)),
    clipped=dict(
        optim_wrapper=dict(
            optimizer=dict(type='AdamW', lr=0.01),
            clip_grad=dict(max_norm=0.1),
            accumulative_counts=3,
        )
    ),
    ema=dict(custom_hooks=[dict(type='EMAHook', momentum=0.1)]),
    ema_with_buffers=dict(
        custom_hooks=[
            dict(
                type='EMAHook',
                ema_type='MomentumAnnealingEMA',
                update_buffers=True,
                gamma=3,
            )
        ]
    ),
    bf16=dict(
        optim_wrapper=dict(
            type='Bfloat16OptimWrapper', optimizer=SGD, accumulative_counts=2
        )
    ),
    fp16=dict(optim_wrapper=dict(type='AmpOptimWrapper', optimizer=SGD)),
    dynamic_intervals=dict(dynamic_intervals=True),
    auto_scale_lr=dict(auto_scale_lr=dict(enable=True, base_batch_size=7)),
    warm_up=dict(
        param_scheduler=[
            dict(type='LinearLR', start_factor=0.01, by_epoch=False, end=9),
            dict(type='PolyLR', eta_min=1e-4, power=0.9, by_epoch=False, begin=9, end=15),
        ]
    ),
    early_stopping=dict(
        custom_hooks=[
            # The first score stays the best. Stops at the validation after iteration 10.
            dict(
                type='EarlyStoppingHook',
                monitor='score',
                rule='less',
                min_delta=9,
                patience=dict(iterations=4, epochs=1),
            )
        ]
    ),
    save_best=dict(save_best='score', rule='greater'),
)


def flat(value: Any, name: str = '') -> dict[str, Any]:
    """Every leaf of a checkpoint, but times, paths and random states."""
    if isinstance(value, HistoryBuffer):
        value = [*value._log_history.tolist(), *value._count_history.tolist()]
    if isinstance(value, dict):
        parts = value.items()
    elif isinstance(value, (list, tuple)):
        parts = enumerate(value)
    else:
        return {name: value}
    skipped = 'time', 'cfg', 'experiment_name', 'data_time', 'last_ckpt', 'best_ckpt'
    found: dict[str, Any] = {}
    for key, part in parts:
        if key not in skipped and 'time' not in str(key):
            found.update(flat(part, f'{name}.{key}'))
    return found


@pytest.mark.parametrize('by_epoch', [False, True], ids=['iterations', 'epochs'])
@pytest.mark.parametrize('setting', SETTINGS)
def test_interrupted(build, tmp_path, setting, by_epoch):
    if setting == 'fp16' and not torch.cuda.is_available():
        pytest.skip('float16 needs a GPU')
    changes = dict(SETTINGS[setting], val_evaluator=dict(type='Output'))
    changes['randomness'] = dict(seed=0)
    hook = dict(type='CheckpointHook', by_epoch=by_epoch, interval=1 if by_epoch else 3)
    hook.update({k: changes.pop(k) for k in ('save_best', 'rule') if k in changes})
    changes['default_hooks'] = dict(checkpoint=hook)
    loop = dict(by_epoch=False, max_iters=15, val_interval=2)
    if by_epoch:
        loop = dict(by_epoch=True, max_epochs=3, val_interval=1)
    if changes.pop('dynamic_intervals', False):
        loop['val_interval'] = 3
        loop['dynamic_intervals'] = [(2, 1)] if by_epoch else [(1, 2), (11, 1)]
    if setting == 'early_stopping':
        (stopping,) = deepcopy(changes['custom_hooks'])
        stopping['patience'] = stopping['patience']['epochs' if by_epoch else 'iterations']
        changes['custom_hooks'] = [stopping]
    changes['train_cfg'] = loop

    def train(folder: str, **others: Any) -> dict[str, Any]:
        build(tmp_path / folder, by_epoch, **{**changes, **others}).train()
        last = (tmp_path / folder / 'last_checkpoint').read_text()
        return torch.load(last, weights_only=False)

    whole = train('whole')
    names = {path.name for path in (tmp_path / 'whole').glob('*.pth')}
    done = whole['meta']['iter']
    assert done == (15 if setting != 'early_stopping' else 10 if by_epoch else 9)
    draw = random.Random(f'{setting} {by_epoch}')
    for stage in ('before_train_iter', 'after_val_iter', 'after_val_epoch'):
        validations = [i for i in range(4, done) if i % (5 if by_epoch else 2) == 0]
        within = stage == 'before_train_iter'
        at = draw.randrange(4, min(done, 10)) if within else draw.choice(validations)
        stop = dict(type='Stop', at=at, stage=stage)
        hooks = [*changes.get('custom_hooks', []), stop]
        with pytest.raises(InterruptedError):
            train(stage, custom_hooks=hooks)
        np.random.seed(9)
        parts = train(stage, resume=True)
        expected, found = flat(whole), flat(parts)
        assert expected.keys() == found.keys()
        for name, value in expected.items():
            same = torch.equal if isinstance(value, torch.Tensor) else np.array_equal
            assert same(found[name], value), f'{name} after {stop}'
        assert {path.name for path in (tmp_path / stage).glob('*.pth')} == names
