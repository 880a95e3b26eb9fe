"""Write configs/README.md and the README of each config folder.

python tools/analysis_tools/make_config_readmes.py

They are made from configs/readmes.yml, configs/paper_tables.yml and the configs.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmgcnl.analysis.config_readmes import render_readmes

ROOT = Path(__file__).resolve().parents[2]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args(argv)
    for path, content in render_readmes(ROOT).items():
        path.write_text(content)
        print(f'written: {path}')


if __name__ == '__main__':
    main()
