"""The version and the address, read also by what must not import the package."""

__version__ = '0.1.0'
#: Where the repository is hosted, without a slash at the end. While this is empty, the
#: wheel's metadata and the documentation have no links to it.
REPOSITORY = ''
