"""Settings of the documentation site, built by ``make docs``.

The source folder is the root of the repository, so that README.md, CONTRIBUTING.md and the
README of each config folder are pages as they stand, and Sphinx checks their links too.
"""

from importlib.util import find_spec
from pathlib import Path
from runpy import run_path

from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform

ROOT = Path(__file__).resolve().parents[1]

project = 'mmgcnl'
author = 'mmgcnl contributors'
copyright = 'mmgcnl contributors'
_about = run_path(str(ROOT / 'mmgcnl/version.py'))
release = version = _about['__version__']

extensions = [
    'myst_nb',
    'sphinx.ext.autodoc',
    'sphinx.ext.napoleon',
    'sphinx.ext.viewcode',
    'sphinx_copybutton',
]
root_doc = 'docs/index'
include_patterns = ['*.md', 'docs/**', 'configs/README.md', 'configs/*/README.md']
exclude_patterns = [
    '.*',
    '**/__pycache__',
    'build',
    'data',
    'dist',
    'docs/_build',
    'mmgcnl',
    'tests',
    'tools',
    'work_dirs',
]

html_theme = 'furo'
html_title = f'mmgcnl {release}'
# The pages lie in docs/ and configs/: this file leads from the root of the site to them.
html_extra_path = ['_static/index.html']
html_theme_options = dict(navigation_with_keys=True)
if _about['REPOSITORY']:
    html_theme_options |= dict(source_repository=_about['REPOSITORY'], source_branch='main')

# As GitHub makes anchors of headings, so that links work in both places.
myst_heading_anchors = 4
# The notebook is executed by tests/test_docs.py and stored with its outputs.
nb_execution_mode = 'off'

# The prompt and the output of console examples are not copied.
copybutton_prompt_text = r'\$ |>>> '
copybutton_prompt_is_regexp = True

autodoc_default_options = {'members': True, 'show-inheritance': True}
autodoc_member_order = 'bysource'
autodoc_typehints = 'signature'
autodoc_typehints_format = 'short'
napoleon_numpy_docstring = False
napoleon_use_ivar = True
# References that give a full path into mmgcnl must be found. Those to torch, NumPy and the
# OpenMMLab libraries would need their inventories from the network.
nitpicky = True
nitpick_ignore_regex = [('py:.*', r'(?!mmgcnl\.).*')]
if find_spec('mmcv') and not find_spec('mmcv._ext'):
    # An mmcv without compiled operators is enough for the API pages, once the module that
    # they are in can be imported. Read the Docs does not compile them.
    autodoc_mock_imports = ['mmcv._ext']


class LinksToFolders(SphinxPostTransform):
    """Let a link to a folder of the repository lead to the page made from its README.

    MyST knows links to pages and to files, but not to folders. A folder without a page
    becomes plain text; one that does not exist is left for MyST to warn about.
    """

    default_priority = 8  # before MyST resolves references, at 9

    def run(self, **kwargs: object) -> None:
        for node in list(self.document.findall(pending_xref)):
            if node['reftype'] != 'myst' or node['refdomain'] is not None:
                continue
            page = Path(self.env.doc2path(node['refdoc']))
            folder = (page.parent / node['reftarget']).resolve()
            if not folder.is_dir():
                continue
            readme = self.env.path2doc(folder / 'README.md')
            if readme in self.env.all_docs:
                node.attributes.update(refdomain='doc', reftarget=readme, reftargetid=None)
            else:
                node.replace_self([child.deepcopy() for child in node.children])


def skip_member(
    app: Sphinx, what: str, name: str, member: object, skip: bool, options: object
) -> bool | None:
    """Leave out the fields of named tuples, which the class docstring describes."""
    return True if type(member).__name__ == '_tuplegetter' else None


def setup(app: Sphinx) -> None:
    app.connect('autodoc-skip-member', skip_member)
    app.add_post_transform(LinksToFolders)
