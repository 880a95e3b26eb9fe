"""Studies: from configs and seeds to tables with their spread (tools/study.py)."""

from mmgcnl.utils.libraries import needed_by

with needed_by(
    'mmgcnl.studies', 'submitit', 'pandas', 'scipy', 'matplotlib', 'pyyaml', 'rich'
):
    import matplotlib  # noqa: F401
    import pandas  # noqa: F401
    import scipy  # noqa: F401
    import submitit  # noqa: F401

from .report import draw, render, render_page, render_table
from .results import CsvError, Record, Results, append_records, read_records, read_results
from .run import Execution, Run, carry_out, other_batch_sizes, plan
from .study import Study, StudyError, read_study

__all__ = [
    'CsvError',
    'Execution',
    'Record',
    'Results',
    'Run',
    'Study',
    'StudyError',
    'append_records',
    'carry_out',
    'draw',
    'other_batch_sizes',
    'plan',
    'read_records',
    'read_results',
    'read_study',
    'render',
    'render_page',
    'render_table',
]
