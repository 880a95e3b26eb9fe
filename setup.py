"""What the installer does besides pyproject.toml: configs, tools and links."""

import runpy
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent


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


repository = runpy.run_path(str(ROOT / 'mmgcnl/version.py'))['REPOSITORY']
links = {
    'MMDetection': 'https://github.com/open-mmlab/mmdetection',
    'MMSegmentation': 'https://github.com/open-mmlab/mmsegmentation',
}
if repository:
    links |= {'Repository': repository, 'Issues': f'{repository}/issues'}
setup(cmdclass={'build_py': BuildWithConfigs}, project_urls=links, zip_safe=False)
