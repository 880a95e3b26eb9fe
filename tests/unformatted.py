"""Importing this keeps mmengine from formatting the configs that it logs and writes.

It does so with yapf several times in a training, which takes longer than the few iterations
of a test. The configs in other processes name a module that imports this one.
"""

try:
    from yapf.yapflib import yapf_api
except ImportError:  # torch alone is installed
    pass
else:
    yapf_api.FormatCode = lambda text, **options: (text, True)
