"""Studies: from configs and seeds to tables with their spread (tools/study.py)."""

from .reading import read_study
from .records import CsvError, Record, append_records, read_records
from .runs import Options, Run, plan
from .scheduler import Scheduler
from .spec import Study, StudyError

__all__ = [
    'CsvError',
    'Options',
    'Record',
    'Run',
    'Scheduler',
    'Study',
    'StudyError',
    'append_records',
    'plan',
    'read_records',
    'read_study',
]
