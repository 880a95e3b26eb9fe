"""Installer; settings of the development tools are in pyproject.toml."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent


def requirements(name):
    lines = (ROOT / 'requirements' / f'{name}.txt').read_text().splitlines()
    return [line for line in lines if line and not line.startswith('#')]


class BuildWithConfigs(build_py):
    """Put configs, tools and the model index into the wheel's mmgcnl/.mim.

    mmengine and mim look for them there. In a checkout that folder has links to them.
    """

    def run(self):
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib, 'mmgcnl', '.mim')
        for folder in ('configs', 'tools'):
            shutil.copytree(
                ROOT / folder,
                target / folder,
                ignore=shutil.ignore_patterns('__pycache__'),
                dirs_exist_ok=True,
            )
        shutil.copy(ROOT / 'model-index.yml', target)


setup(
    name='mmgcnl',
    version=re.search(
        r"__version__ = '(.+)'", (ROOT / 'mmgcnl' / 'version.py').read_text()
    )[1],
    description=(
        'Non-local self-attention with global context and geometric priors, '
        'a plugin for MMDetection and MMSegmentation'
    ),
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    keywords='computer vision, attention, semantic segmentation, object detection',
    license='Apache-2.0',
    classifiers=[
        'Development Status :: 3 - Alpha',
        'Operating System :: OS Independent',
        'Programming Language :: Python :: 3',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
    packages=find_packages(include=['mmgcnl', 'mmgcnl.*']),
    python_requires='>=3.10',
    # No torch and no mm* package here: two families of distributions install the
    # same import names, and pip would put one over the other. `import mmgcnl`
    # checks what it finds instead.
    install_requires=requirements('runtime'),
    extras_require={
        'optional': requirements('optional'),
        'tests': requirements('tests'),
    },
    package_data={'mmgcnl': ['py.typed']},
    cmdclass={'build_py': BuildWithConfigs},
    zip_safe=False,
)
