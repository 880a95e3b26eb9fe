"""Which runner a config gets."""

import pytest
from mmengine.registry import RUNNERS
from mmengine.runner import FlexibleRunner
from mmengine.runner import Runner as _Runner

from mmgcnl.engine import Runner, build_runner
from tests.builders import forget_instances, skip_without_classes


def test_default_is_our_runner(cfg):
    assert type(build_runner(cfg)) is Runner
    cfg.runner_type = 'Runner'
    forget_instances()
    assert type(build_runner(cfg)) is Runner


@pytest.mark.parametrize('kind', ['mmengine.Runner', 'mmengine.runner.Runner', _Runner])
def test_ours_instead_of_the_one_of_mmengine(cfg, kind):
    if kind is _Runner:
        skip_without_classes()
    cfg.runner_type = kind
    assert type(build_runner(cfg)) is Runner


def test_flexible_runner_trains(cfg, tmp_path, caplog):
    cfg.runner_type = 'FlexibleRunner'
    cfg.launcher = 'none'
    cfg.norm_cfg = cfg.model.backbone.norm_cfg = dict(type='BN')
    runner = build_runner(cfg)
    assert type(runner) is FlexibleRunner
    runner.train()
    assert (tmp_path / 'work/iter_2.pth').is_file()


def test_a_class_derived_from_ours(cfg):
    @RUNNERS.register_module(force=True)
    class DerivedRunner(Runner):
        pass

    cfg.runner_type = 'DerivedRunner'
    assert type(build_runner(cfg)) is DerivedRunner


@pytest.mark.parametrize(
    'settings, message',
    [
        (dict(runner_type='NoRunner'), "no runner 'NoRunner' is registered"),
        (
            dict(runner_type='FlexibleRunner', strategy=dict(type='FSDPStrategy')),
            'FSDPStrategy needs a GPU',
        ),
        (
            dict(runner_type='FlexibleRunner', strategy=dict(type='DeepSpeedStrategy')),
            'DeepSpeedStrategy needs ',
        ),
        (
            dict(runner_type='FlexibleRunner', launcher='pytorch'),
            'needs a GPU for each',
        ),
    ],
)
def test_refused(cfg, monkeypatch, settings, message):
    monkeypatch.setattr('mmgcnl.engine.build.get_device', lambda: 'cpu')
    cfg.merge_from_dict(settings)
    with pytest.raises(ValueError, match=message):
        build_runner(cfg)
