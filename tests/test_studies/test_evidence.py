"""docs/evidence.md is what the studies and the CSV files here make of it."""

import re

import pytest

from mmgcnl.studies import read_results, read_study, render_page
from mmgcnl.studies.study import digest
from tests.builders import ROOT, load_tool

STUDY_TOOL = load_tool('study')
#: The studies that the command in docs/evidence.md reports.
STUDIES = [ROOT / name for name in re.findall(r'configs/\S+\.yml', STUDY_TOOL.EVIDENCE)]


def results(name):
    study = read_study(ROOT / f'configs/studies/{name}.yml', ROOT)
    return study, read_results(study)[0]


def test_evidence_is_current(tmp_path):
    out = tmp_path / 'evidence.md'
    text, faults = render_page(STUDIES, ROOT, out=out, intro=STUDY_TOOL.INTRO)
    assert not faults
    page = ROOT / 'docs/evidence.md'
    assert page.read_text() == text, f'run {STUDY_TOOL.EVIDENCE}'
    for picture in re.findall(r'\((evidence/\S+\.png)\)', text):
        assert (page.parent / picture).is_file() and (tmp_path / picture).is_file()


def test_every_study_is_in_it():
    paths = (ROOT / 'configs/studies').glob('*.yml')
    csv_files = {path: read_study(path, ROOT).csv for path in paths}
    assert {path for path, csv in csv_files.items() if csv and csv.is_file()} == set(
        STUDIES
    )


def test_the_demo_is_one_seed_of_the_probes_core():
    """So that the figures of five seeds say what `make demo` prints."""
    demo, probe = (results(name)[0] for name in ('demo', 'probe-core'))
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
def test_pages_quote_the_probe(page, metrics):
    probe, found = results('probe-core')
    lines = (ROOT / page).read_text().splitlines()
    rows = ('fcn', 'nl', 'context', 'position', 'both')
    labels = ('FCN', '+ non-local', '+ context only', '+ position only', '+ ours (both)')
    for row, label in zip(rows, labels, strict=True):
        values = [found.values(row, metric) for metric in metrics]
        assert {len(value) for value in values} == {len(probe.seeds)}
        cells = [f'{value.mean():.1f} ± {value.std():.1f}' for value in values]
        assert f'| {label} | {" | ".join(cells)} |' in lines


def test_camvid_takes_the_learning_rate_that_was_selected():
    """The rules in camvid-selection.yml, applied to its results."""
    selection, found = results('camvid-selection')
    assert len(found.runs) == len(selection.rows) * len(selection.seeds)
    mean = {row: found.values(row, 'mIoU').mean() for row in selection.rows}
    more = mean['fcn-0.02-4k'] - mean['fcn-0.02'] > 1
    for row in results('camvid')[0].rows.values():
        model = 'fcn' if row.name == 'fcn' else 'nl'
        cfg = row.load()
        best = max((0.005, 0.02, 0.08), key=lambda rate: mean[f'{model}-{rate}'])
        assert cfg.optim_wrapper.optimizer.lr == best, row.name
        assert cfg.train_cfg.max_iters == (4000 if more else 2000)
        assert cfg.param_scheduler[1].end == cfg.train_cfg.max_iters
