"""The package's imports point one way, and private names stay private."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / 'mmgcnl'
MODULES = sorted(PACKAGE.rglob('*.py'))
# A part may import the parts before it, and its own modules. The root package may import
# all of them, and none of them the root package.
PARTS = (
    'version',
    'utils',
    'layers',
    'structures',
    'datasets',
    'evaluation',
    'models',
    'engine',
    'apis',
    'deployment',
    'analysis',
    'studies',
)
DEPRECATED = ('conversion',)  # points to new places by strings


def name_of(path: Path) -> str:
    """Dotted name of a module's file."""
    parts = path.relative_to(ROOT).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """Every module of the package that a file imports from, and the imported name."""
    package = path.parent.relative_to(ROOT).parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split('.')[0] == 'mmgcnl':
                    yield alias.name, ''
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ''
            if node.level:
                base = package[: len(package) - node.level + 1]
                module = '.'.join([*base, module] if module else base)
            if module.split('.')[0] == 'mmgcnl':
                for alias in node.names:
                    yield module, alias.name


def part_of(module: str) -> str:
    """'layers' of 'mmgcnl.layers.position'; '' of the root package."""
    return (module + '.').split('.')[1]


@pytest.mark.parametrize('path', MODULES, ids=name_of)
def test_no_import_runs_back_up(path):
    part = part_of(name_of(path))
    if not part:
        return  # the root package, which may import every part
    allowed = ('utils',) if part in DEPRECATED else PARTS[: PARTS.index(part) + 1]
    for module, name in imports(path):
        # `from mmgcnl import layers` imports a part, and the root package with it.
        assert part_of(module) in allowed, f'{path} imports {module} {name}'


@pytest.mark.parametrize(
    'path', [*MODULES, *sorted((ROOT / 'tools').rglob('*.py'))], ids=str
)
def test_no_private_name_is_imported(path):
    for module, name in imports(path):
        words = [*module.split('.'), name]
        private = [w for w in words if w.startswith('_') and not w.startswith('__')]
        assert not private, f'{path} imports {private} from {module}'
    # Nor reached through a module: module._name.
    modules = {name for _, name in imports(path)} | {'mmgcnl'}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            reached = node.value.id in modules and node.value.id.islower()
            private = node.attr.startswith('_') and not node.attr.startswith('__')
            assert not (reached and private), f'{path}: {node.value.id}.{node.attr}'


def test_layers_need_nothing_but_torch():
    for path in (PACKAGE / 'layers').rglob('*.py'):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            for name in names:
                top = name.split('.')[0]
                assert not top.startswith('mm') or top == 'mmgcnl', f'{path}: {name}'


# The three kernels share their loads and are read side by side.
LONG = (PACKAGE / 'layers/attention/triton_kernels.py',)


@pytest.mark.parametrize('path', [p for p in MODULES if p not in LONG], ids=name_of)
def test_no_module_is_long(path):
    assert len(path.read_text().splitlines()) <= 310, f'split {path}'


# Where the modules are tested that have no test file of their name.
TESTED_IN = {
    'analysis/config_readmes': 'test_configs/test_readmes.py',
    'analysis/figures': 'test_tools/test_analysis_tools/test_visualize_attention.py',
    'analysis/panels': 'test_tools/test_analysis_tools/test_visualize_predictions.py',
    'analysis/paper_tables': 'test_configs/test_paper_tables.py',
    'analysis/samples': 'test_tools/test_analysis_tools/test_cosine_distance.py',
    'apis/overlays': 'test_apis/test_inferencer.py',
    'conversion': 'test_utils/test_deprecation.py',
    'engine/initialization': 'test_tools/test_train.py',
    'engine/integrity': 'test_engine/test_checkpoint.py',
    'engine/loops': 'test_engine/test_every_setting.py',
    'engine/optim': 'test_tools/test_precision.py',
    'engine/random_state': 'test_engine/test_resume.py',
    'engine/safe_globals': 'test_tools/test_untrusted.py',
    'engine/saving': 'test_engine/test_hooks.py',
    'layers/attention/dense': 'test_layers/test_gc_non_local.py',
    'layers/attention/heads': 'test_layers/test_attention/test_blockwise.py',
    'layers/attention/kernel_tiles': 'test_layers/test_attention/test_validation.py',
    'layers/attention/inputs': 'test_layers/test_attention/test_dispatch.py',
    'layers/attention/passes': 'test_layers/test_attention/test_blockwise.py',
    'layers/attention/triton_kernels': 'test_layers/test_attention/test_fused.py',
    'layers/checks': 'test_layers/test_gc_non_local.py',
    'layers/precision': 'test_layers/test_gc_non_local.py',
    'models/checks': 'test_models/test_fuzzing.py',
    'models/conv_net': 'test_configs/test_every_config.py',
    'studies/distances': 'test_tools/test_study.py',
    'studies/figures': 'test_studies/test_report.py',
    'studies/metrics': 'test_studies/test_reading.py',
    'studies/paper': 'test_studies/test_reading.py',
    'studies/results': 'test_studies/test_report.py',
    'studies/scheduler': 'test_tools/test_study.py',
    'studies/spec': 'test_studies/test_reading.py',
    'utils/collect_env': 'test_packaging.py',
    'version': 'test_packaging.py',
}


def test_tests_mirror_the_package():
    tests = ROOT / 'tests'
    elsewhere = set()
    for path in MODULES:
        parts = path.relative_to(PACKAGE).with_suffix('').parts
        if parts[-1] == '__init__':
            continue
        if (
            not tests.joinpath(*(f'test_{part}' for part in parts))
            .with_suffix('.py')
            .exists()
        ):
            elsewhere.add('/'.join(parts))
    assert elsewhere == set(TESTED_IN), (
        'each module FOLDER/NAME.py needs tests/test_FOLDER/test_NAME.py or a line in '
        'TESTED_IN'
    )
    for place in TESTED_IN.values():
        assert (tests / place).is_file(), place
