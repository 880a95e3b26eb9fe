"""Studies: from configs and seeds to tables with their spread (tools/study.py)."""

from .figures import draw
from .reading import read_study
from .records import CsvError, Record, append_records, read_records
from .report import render, render_table
from .results import Results
from .runs import Execution, Run, other_batch_sizes, plan
from .scheduler import Scheduler
from .spec import Study, StudyError

__all__ = [
    'CsvError',
    'Execution',
    'Record',
    'Results',
    'Run',
    'Scheduler',
    'Study',
    'StudyError',
    'append_records',
    'draw',
    'other_batch_sizes',
    'plan',
    'read_records',
    'read_study',
    'render',
    'render_table',
]
