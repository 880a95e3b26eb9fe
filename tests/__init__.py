"""A package: mmsegmentation 1.2.2 installs one of this name, which would hide a folder."""
