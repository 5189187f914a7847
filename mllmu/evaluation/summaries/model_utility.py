"""One number for what is left of a model."""

from collections.abc import Iterable, Sequence
from functools import cache
from math import fsum

from mllmu.core.plugins import build
from mllmu.core.records import UTILITY
from mllmu.evaluation.metrics import Metric
from mllmu.evaluation.stats import harmonic_mean
from mllmu.evaluation.summaries import Modality, ScoredRun, Split, Summariser, Summary, TableSpec

PARTS = {
    "retain": ("probability", "rougeL_recall", "truth_ratio"),
    "celebrity": ("normalised_probability", "rougeL_recall", "truth_ratio"),
}
"""The metrics of each set: people who are no training data have no wording that a model could know by heart."""


class ModelUtility(Summariser):
    """Harmonic mean of probability, ROUGE-L recall and truth ratio on retain and celebrity questions (generation).

    Probability is that of the answer, exp(log p / tokens), on retain; on celebrity it is normalised by the wrong
    answers, P / (P + sum of wrong P), as TOFU has it for real authors and world facts, which stand where the
    celebrities stand here.

    n / sum 1/x_i over the six means, 0 if one of them is 0 (or below), in [0, 1]. One bad part pulls it down, so a
    model cannot make up for lost celebrities with retain people. A part that could not be judged leaves it undefined.
    """

    source = "https://arxiv.org/abs/2401.06121"
    needs = tuple(dict.fromkeys(name for names in PARTS.values() for name in names))
    range = (0.0, 1.0)

    def summarise(self, run: ScoredRun) -> list[Summary]:
        return [self._row(run, model, modality) for model in run.models for modality in run.modalities]

    def _row(self, run: ScoredRun, model: str, modality: Modality) -> Summary:
        means = [
            _mean(run, model, metric, split, modality)
            for split in UTILITY
            if run.asked(split)
            for metric in _metrics(split)
        ]
        known = [mean for mean in means if mean is not None]
        if not known or len(known) < len(means):
            return self.row(model, None, modality=modality, num=len(means), note="a part could not be judged")
        return self.row(model, harmonic_mean(known), modality=modality, num=len(means))

    def tables(self, rows: Sequence[Summary]) -> Iterable[TableSpec]:
        reads = (
            "harmonic mean of probability (normalised on celebrity), ROUGE-L recall and truth ratio on retain and "
            "celebrity; one bad part pulls it down"
        )
        return self.overview(10, self.column("model utility", good="kept", reads=reads))


@cache
def _metrics(split: Split) -> list[Metric]:
    return [build("metrics", name, {}) for name in PARTS[split]]


def _mean(run: ScoredRun, model: str, metric: Metric, split: Split, modality: Modality) -> float | None:
    judged = run.judged(model, metric.name, split=split, modality=modality, task="generation")
    values = [metric.readable(value, split) for value in judged.values()]
    return fsum(values) / len(values) if values else None
