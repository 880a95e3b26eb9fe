"""Our configs as bases of others: ``_base_ = 'mmgcnl::ebfpn/...'``."""

from pathlib import Path

from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.utils import check_file_exist, is_installed

from .libraries import LIBRARIES, how_to_install, installed_version

CONFIGS = Path(__file__).parents[1] / '.mim/configs'


def register_bases() -> None:
    """Make mmengine find our configs, as it finds those of mmdet and mmseg.

    Those of OneDL's mmseg it does not find without this.

    mmengine marks what comes from a package's configs with the package as its scope, in
    whose registries it is then looked up. Our configs name classes of mmdet and mmseg and
    add ours to their registries; there are none of our own, so the mark is left out.
    """
    if 'mmgcnl' in MODULE2PACKAGE:
        return
    MODULE2PACKAGE['mmgcnl'] = 'mmgcnl'
    if installed_version('mmseg') and not is_installed(MODULE2PACKAGE['mmseg']):
        MODULE2PACKAGE['mmseg'] = 'mmseg'  # OneDL's has another name than OpenMMLab's
    find = Config._get_cfg_path

    def find_without_scope(cfg_path: str, filename: str) -> tuple[str, str | None]:
        name, separator, rest = cfg_path.partition('::')
        if name == 'mmgcnl' and separator:
            # OpenMMLab's mmengine would look in site-packages, where an editable
            # installation has no folder.
            check_file_exist(CONFIGS / rest)
            return str(CONFIGS / rest), None
        try:
            return find(cfg_path, filename)
        except ModuleNotFoundError:
            if name not in LIBRARIES or installed_version(name):
                raise
            raise ModuleNotFoundError(
                f'{filename} inherits {cfg_path}, and {name} is not installed: '
                f'{how_to_install(name)}'
            ) from None

    Config._get_cfg_path = staticmethod(find_without_scope)
