"""Our configs as bases of others: ``_base_ = 'mmgcnl::ebfpn/...'``."""

from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.utils import is_installed

from .libraries import LIBRARIES, how_to_install, installed_version


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
        try:
            path, scope = find(cfg_path, filename)
        except ModuleNotFoundError:
            name = cfg_path.partition('::')[0]
            if name not in LIBRARIES or installed_version(name):
                raise
            raise ModuleNotFoundError(
                f'{filename} inherits {cfg_path}, and {name} is not installed: '
                f'{how_to_install(name)}'
            ) from None
        return path, None if scope == 'mmgcnl' else scope

    Config._get_cfg_path = staticmethod(find_without_scope)
