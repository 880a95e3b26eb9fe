# mmdet's default runtime, plus the import that registers mmgcnl.
_base_ = 'mmdet::_base_/default_runtime.py'
custom_imports = dict(imports=['mmgcnl'], allow_failed_imports=False)
