"""Write docs/results.md from configs/paper_tables.yml and configs/paper_assumptions.yml.

Rows of which docs/evidence/paper_tables.csv has results (see configs/studies/README.md) are
shown beside the paper's.

python tools/analysis_tools/make_results.py [--count]
"""

import argparse
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import yaml
from mmengine.utils import track_iter_progress

from mmgcnl.analysis.paper_tables import count_costs, render_results
from mmgcnl.studies import Results, read_records, read_study, render_table

ROOT = Path(__file__).resolve().parents[2]
TABLES = ROOT / 'configs/paper_tables.yml'
ASSUMPTIONS = ROOT / 'configs/paper_assumptions.yml'
RESULTS = ROOT / 'docs/results.md'
#: Where the results of `tools/study.py run configs/paper_tables.yml --csv ...` belong.
TRAINED = ROOT / 'docs/evidence/paper_tables.csv'


def count_all() -> None:
    """Update the counted figures in the table file, line by line."""
    rows = [row for table in yaml.safe_load(TABLES.read_text()) for row in table['rows']]
    counted = (
        count_costs(ROOT / row['config'], tuple(row['shape']))
        for row in track_iter_progress(rows)
    )
    text = re.sub(
        r'(?<=reproduced: ){.*}',
        lambda _: '{{params: {params}, flops: {flops}}}'.format(**next(counted)),
        TABLES.read_text(),
    )
    TABLES.write_text(text)
    print()


def render() -> str:
    """The page as the two files describe it."""
    tables, assumptions = (
        yaml.safe_load(path.read_text()) for path in (TABLES, ASSUMPTIONS)
    )
    return render_results(tables, assumptions, here=trained_tables())


def trained_tables(csv: Path = TRAINED) -> dict[str, str]:
    """The tables that tools/study.py has trained rows of, with the paper's figures."""
    if not csv.exists():
        return {}
    study = read_study(TABLES, ROOT)
    records, broken = read_records(csv)
    if broken:
        raise ValueError('; '.join(broken))
    results = Results(study, records)
    rows = {row for row, _ in results.runs}
    return {
        table.name: render_table(results, table.name, heading=False)
        for table in study.tables
        if table.metrics and rows & {row.row for row in table.rows}
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--count',
        action='store_true',
        help="first count parameters and FLOPs of every row's config again, and write "
        'them into configs/paper_tables.yml',
    )
    args = parser.parse_args(argv)
    if args.count:
        warnings.filterwarnings('ignore', module='mmseg')
        count_all()
    RESULTS.write_text(render())
    print(f'written: {RESULTS}')


if __name__ == '__main__':
    main()
