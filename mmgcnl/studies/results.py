"""The values of a study, from its CSV file."""

from __future__ import annotations

from collections.abc import Iterable

from .records import Record
from .runs import LAST_METRIC
from .spec import Study, StudyError


class Results:
    """The values that the complete runs of a study have measured.

    Args:
        study: The study.
        records: From :func:`mmgcnl.studies.read_records`. Those of other studies are left
            out. When a value was measured several times, the last one counts.

    Raises:
        StudyError: A row has results of several settings.
    """

    def __init__(self, study: Study, records: Iterable[Record]) -> None:
        self.study = study
        records = [r for r in records if r.study == study.name and r.row in study.rows]
        complete = {(r.row, r.seed) for r in records if r.metric == LAST_METRIC}
        self.records = [r for r in records if (r.row, r.seed) in complete]
        settings: dict[str, set[str]] = {}
        self._values: dict[tuple[str, str], dict[int, float]] = {}
        for record in self.records:
            settings.setdefault(record.row, set()).add(record.settings)
            by_seed = self._values.setdefault((record.row, record.metric), {})
            by_seed[record.seed] = record.value
        mixed = [row for row, found in settings.items() if len(found) > 1]
        if mixed:
            raise StudyError(
                f'{study.name}: results of several settings in {", ".join(mixed)}; '
                'move the lines of all but one (column settings) to another file'
            )

    def values(self, row: str, metric: str) -> dict[int, float]:
        """Return the values by seed. Distances of several blocks are averaged."""
        found = self._values.get((row, metric))
        if found is None and metric.startswith('cos_'):
            found = self._mean_over_blocks(row, metric)
        return dict(sorted((found or {}).items()))

    def ablated(self, row: str, ablation: str, metric: str) -> dict[int, float]:
        """Return the values by seed under an ablation, of all blocks together."""
        name = f'ablate/{ablation.replace(" ", "-")}'
        found = self._values.get((row, f'{name}/{metric}'))
        return dict(found or self._values.get((row, f'{name}@all/{metric}'), {}))

    def _mean_over_blocks(self, row: str, metric: str) -> dict[int, float]:
        blocks = [
            by_seed
            for (name, kind), by_seed in self._values.items()
            if name == row and kind.startswith(f'{metric}@')
        ]
        seeds = set.intersection(*map(set, blocks)) if blocks else set()
        return {seed: sum(b[seed] for b in blocks) / len(blocks) for seed in seeds}

    @property
    def runs(self) -> set[tuple[str, int]]:
        """The row and the seed of every complete run."""
        return {(record.row, record.seed) for record in self.records}

    def provenance(self, field: str) -> list[str]:
        """The different entries of a column, in the order of their first appearance."""
        return list(dict.fromkeys(str(getattr(r, field)) for r in self.records))
