"""docs/evidence.md is what the studies and the CSV files here make of it."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

from mmgcnl.studies import read_study
from mmgcnl.studies.spec import digest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='module')
def study_tool():
    spec = importlib.util.spec_from_file_location('study_tool', ROOT / 'tools/study.py')
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool


@pytest.fixture(scope='module')
def studies(study_tool):
    """The studies that the command in docs/evidence.md reports."""
    return [ROOT / name for name in re.findall(r'configs/\S+\.yml', study_tool.EVIDENCE)]


def test_evidence_is_current(study_tool, studies):
    text, broken, _ = study_tool.compose(studies, pictures='evidence')
    assert not broken
    page = ROOT / 'docs/evidence.md'
    assert page.read_text() == text, f'run {study_tool.EVIDENCE}'
    for study in studies:
        name = f'evidence/{read_study(study, ROOT).name}.png'
        assert (f'({name})' in text) == (page.parent / name).is_file()


def test_every_study_is_in_it(studies):
    with_results = {
        path
        for path in (ROOT / 'configs/studies').glob('*.yml')
        if (csv := read_study(path, ROOT).csv) and csv.is_file()
    }
    assert set(studies) == with_results


def test_the_demo_is_one_seed_of_the_probes_core():
    """So that the figures of five seeds say what `make demo` prints."""
    demo = read_study(ROOT / 'configs/studies/demo.yml', ROOT)
    probe = read_study(ROOT / 'configs/studies/probe-core.yml', ROOT)
    for one, other in zip(demo.rows.values(), probe.rows.values(), strict=True):
        assert digest(one.load()) == digest(other.load())
    assert (demo.prepare, demo.environment) == (probe.prepare, probe.environment)


@pytest.mark.parametrize(
    ('page', 'metrics'),
    [
        ('README.md', ('mIoU', 'probe/side', 'probe/lamp')),
        ('docs/probe.md', ('mIoU', 'aAcc', 'probe/side', 'probe/lamp')),
    ],
)
def test_pages_quote_the_probe(study_tool, page, metrics):
    probe = read_study(ROOT / 'configs/studies/probe.yml', ROOT)
    results, _ = study_tool.read_results(probe, probe.csv)
    lines = (ROOT / page).read_text().splitlines()
    rows = ('fcn', 'nl-4', 'context-4', 'position-4', 'both-4')
    labels = ('FCN', '+ non-local', '+ context only', '+ position only', '+ ours (both)')
    for row, label in zip(rows, labels, strict=True):
        cells = []
        for metric in metrics:
            values = list(results.values(row, metric).values())
            assert len(values) == len(probe.seeds)
            cells.append(f'{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}')
        assert f'| {label} | {" | ".join(cells)} |' in lines


def test_camvid_takes_the_learning_rate_that_was_selected(study_tool):
    """The rules in camvid-selection.yml, applied to its results."""
    selection = read_study(ROOT / 'configs/studies/camvid-selection.yml', ROOT)
    results, _ = study_tool.read_results(selection, selection.csv)
    if len(results.runs) < len(selection.rows) * len(selection.seeds):
        pytest.skip('camvid-selection has not been run to its end')

    def mean(row):
        values = results.values(row, 'mIoU').values()
        return sum(values) / len(values)

    camvid = read_study(ROOT / 'configs/studies/camvid.yml', ROOT)
    more = mean('fcn-0.02-4k') - mean('fcn-0.02') > 1
    for row in camvid.rows.values():
        model = 'fcn' if row.name == 'fcn' else 'nl'
        rates = (0.005, 0.02, 0.08)
        best = max(rates, key=lambda rate: mean(f'{model}-{rate}'))
        cfg = row.load()
        assert cfg.optim_wrapper.optimizer.lr == best, row.name
        assert cfg.train_cfg.max_iters == (4000 if more else 2000)
        assert cfg.param_scheduler[1].end == cfg.train_cfg.max_iters
