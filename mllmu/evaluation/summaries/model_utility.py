"""One number for what is left of a model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from math import fsum

from mllmu.core.declared import TableSpec
from mllmu.core.plugins import build
from mllmu.core.records import Split, Summary
from mllmu.evaluation.metrics import Metric
from mllmu.evaluation.summaries import ScoredRun, Summariser

PARTS = ("probability", "rougeL_recall", "truth_ratio")
KEPT: tuple[Split, ...] = ("retain", "celebrity")


class ModelUtility(Summariser):
    """Harmonic mean of probability, ROUGE-L recall and truth ratio on retain and celebrity questions (generation).

    n / sum 1/x_i over the six means, 0 if one of them is 0 (or below), in [0, 1]. One bad part pulls it down, so a
    model cannot make up for lost celebrities with retain people. A part that could not be judged leaves it undefined.
    TOFU has real authors and world facts where the celebrities stand here.
    """

    source = "https://arxiv.org/abs/2401.06121"
    needs = PARTS

    def summarise(self, run: ScoredRun) -> list[Summary]:
        rows = []
        splits = [split for split in KEPT if run.asked(split)]
        for model in run.models:
            for modality in run.modalities:
                means = []
                for split in splits:
                    for name, metric in _parts().items():
                        values = run.judged(model, name, split=split, modality=modality, task="generation")
                        read = [metric.readable(value, split) for value in values.values()]
                        means.append(fsum(read) / len(read) if read else None)
                known = [value for value in means if value is not None]
                whole = bool(known) and len(known) == len(means)
                rows.append(
                    self.row(
                        model,
                        harmonic(known) if whole else None,
                        modality=modality,
                        num=len(means),
                        note="" if whole else "a part could not be judged",
                    )
                )
        return rows

    def tables(self, rows: Sequence[Summary]) -> Iterable[TableSpec]:
        reads = (
            "harmonic mean of probability, ROUGE-L recall and truth ratio on retain and celebrity; one bad part pulls "
            "it down"
        )
        return self.overview(10, self.column("model utility", good="kept", reads=reads))


@cache
def _parts() -> dict[str, Metric]:
    return {name: build("metrics", name, {}) for name in PARTS}


def harmonic(values: Sequence[float]) -> float:
    """Harmonic mean; 0 if a value is 0 or below.

    >>> harmonic([1.0, 0.5]), harmonic([1.0, 0.0])
    (0.6666666666666666, 0.0)
    """
    return len(values) / sum(1 / value for value in values) if min(values) > 0 else 0.0


PLUGIN = ModelUtility
