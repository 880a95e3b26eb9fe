"""What the documentation says about the code, and the notebook that it contains.

Links between pages are checked by `make docs`.
"""

import ast
import inspect
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mmgcnl import layers, models

ROOT = Path(__file__).parents[1]
PAGES = [
    *ROOT.glob('*.md'),
    *ROOT.glob('docs/**/*.md'),
    *ROOT.glob('configs/**/README.md'),
    *ROOT.glob('.github/**/*.md'),
]
NOTEBOOK = ROOT / 'docs/notebooks/ebfpn.ipynb'
FOLDERS = r'configs|docs|mmgcnl|requirements|tests|tools|\.dev_scripts|\.ci|\.github'


def table(page: str, heading: str) -> dict[str, str]:
    """The first two columns of the first table below a heading of docs/reference.md."""
    section = page.split(f'\n## {heading}\n')[1].split('\n## ')[0].split('\n\n| ')[1]
    rows = re.findall(r'^\| `(\w+)` \| (.+?) \|', section, re.MULTILINE)
    return {name: default.strip('`') for name, default in rows}


def defaults(function) -> dict:
    parameters = list(inspect.signature(function).parameters.values())
    return {p.name: p.default for p in parameters if p.kind == p.POSITIONAL_OR_KEYWORD}


@pytest.mark.parametrize('name', ['GCNonLocal2d', 'EBFPN', 'GCNLHead'])
def test_options_are_those_of_the_code(name):
    documented = table((ROOT / 'docs/reference.md').read_text(), name)
    if name == 'GCNonLocal2d':  # configs give norm_cfg in the place of norm_layer
        expected = defaults(layers.GCNonLocal2d) | defaults(models.GCNonLocal2dAdapter)
        del expected['norm_layer']
    else:
        expected = defaults(getattr(models, name))
    assert set(documented) == set(expected)
    for option, default in documented.items():
        if default == 'required':
            assert expected[option] is inspect.Parameter.empty, option
        elif option != 'refine':  # said in a sentence below the table
            assert ast.literal_eval(default) == expected[option], option


def test_default_refine_is_that_of_the_code():
    page = ' '.join((ROOT / 'docs/reference.md').read_text().split())
    code = re.search(r'The default of `refine` is `(dict\(.*?\))`', page)[1]
    refine = {
        keyword.arg: ast.literal_eval(keyword.value)
        for keyword in ast.parse(code, mode='eval').body.keywords
    }
    assert refine == defaults(models.EBFPN)['refine']


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_are_named_exist(page):
    """Also in commands and code, which Sphinx does not look at."""
    named = re.findall(rf'(?<![\w./~-])((?:{FOLDERS})/[\w./*{{}}-]*)', page.read_text())
    for name in named:
        if re.search(r'[A-Z]{4}|[*{]', name):
            continue  # a placeholder or a pattern
        assert (ROOT / name.rstrip('.')).exists(), name


def examples(page: str) -> list[str]:
    return re.findall(r'```python\n(.*?)```', (ROOT / page).read_text(), re.DOTALL)


@pytest.mark.parametrize('code', examples('docs/elsewhere.md'))
def test_examples_for_other_libraries_run(code):
    for name in re.findall(r'^(?:from|import) (\w+)', code, re.MULTILINE):
        pytest.importorskip(name)
    if 'huggingface_hub' in code:
        pytest.importorskip('safetensors', reason='save_pretrained needs it')
    exec(compile(code, 'docs/elsewhere.md', 'exec'), {'__name__': 'example'})


class _Detectron2Backbone(nn.Module):
    """As detectron2.modeling.Backbone: two members to override, one of them a property."""

    @property
    def size_divisibility(self) -> int:
        return 0

    def output_shape(self) -> dict:
        raise NotImplementedError


class _Detectron2FPN(_Detectron2Backbone):
    size_divisibility = 32

    def forward(self, images):
        return {f'p{i}': torch.rand(1, 16, 64 >> i, 64 >> i) for i in range(2, 6)}

    def output_shape(self):
        return dict.fromkeys(('p2', 'p3', 'p4', 'p5'))


def test_example_for_detectron2_follows_its_interface(monkeypatch):
    """Which has no package to test with."""
    (code,) = (e for e in examples('docs/elsewhere.md') if 'detectron2' in e)
    registry = SimpleNamespace(register=lambda: lambda kind: kind)
    modeling = dict(BACKBONE_REGISTRY=registry, Backbone=_Detectron2Backbone)
    fpn = dict(build_resnet_fpn_backbone=lambda cfg, input_shape: _Detectron2FPN())
    for name, content in {'': {}, '.modeling': modeling, '.modeling.backbone': {}}.items():
        module = SimpleNamespace(**content, __path__=[])
        monkeypatch.setitem(sys.modules, f'detectron2{name}', module)
    module = SimpleNamespace(**fpn)
    monkeypatch.setitem(sys.modules, 'detectron2.modeling.backbone.fpn', module)
    found: dict = {'__name__': 'example'}
    exec(compile(code, 'docs/elsewhere.md', 'exec'), found)
    cfg = SimpleNamespace(MODEL=SimpleNamespace(FPN=SimpleNamespace(OUT_CHANNELS=16)))
    backbone = found['ResNetEBFPN'](cfg, None)
    assert backbone.size_divisibility == 32
    levels = backbone(None)
    assert {name: level.shape[-1] for name, level in levels.items()} == dict(
        p2=16, p3=8, p4=4, p5=2
    )


def test_hooks_have_the_versions_of_make_lint():
    hooks = (ROOT / '.pre-commit-config.yaml').read_text()
    pinned = (ROOT / 'requirements/tests.txt').read_text().split()
    for name in ('ruff', r'codespell\[toml\]'):
        versions = set(re.findall(rf'{name}==[\d.]+', hooks))
        assert len(versions) == 1
        assert versions <= set(pinned)


# --- the notebook ---------------------------------------------------------------


@pytest.fixture(scope='module')
def nbformat():
    return pytest.importorskip('nbformat', reason='nbclient brings it')


def test_notebook_is_stored_with_its_outputs(nbformat):
    assert NOTEBOOK.stat().st_size < 300_000
    cells = [c for c in nbformat.read(NOTEBOOK, 4).cells if c.cell_type == 'code']
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    pictures = [o for c in cells for o in c.outputs if 'image/png' in o.get('data', {})]
    assert len(pictures) == 3
    assert not [o for c in cells for o in c.outputs if o.output_type == 'error']


def test_notebook_runs(nbformat, tmp_path):
    """From its first cell to its last, with two iterations of training."""
    client = pytest.importorskip('nbclient')
    pytest.importorskip('ipykernel')
    notebook = nbformat.read(NOTEBOOK, 4)
    (cell,) = (c for c in notebook.cells if c.source.startswith('iterations = '))
    cell.source = re.sub(r'^iterations = \d+', 'iterations = 2', cell.source)
    client.NotebookClient(
        notebook,
        timeout=300,
        kernel_name='python3',
        resources={'metadata': {'path': str(tmp_path)}},
    ).execute()
    text = [o.get('text', '') for c in notebook.cells for o in c.get('outputs', ())]
    assert any("['neck.1.refine']" in t for t in text)
    assert not list(tmp_path.iterdir())
