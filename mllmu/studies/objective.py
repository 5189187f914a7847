"""What a good setting is: as ignorant as the retain_model on forget, as able as the target on retain.

Only questions of the part ``selection`` are used, so the reported questions are never tuned on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mllmu.core import plugins
from mllmu.core.records import Modality, Response, Sample, Split
from mllmu.evaluation.metrics import Metric


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where a model stands beside the target and the retain_model; every value is in 0 to 1, lower is better.

    Attributes:
        gap: mean over the modalities of |score(model, forget) - score(retain_model, forget)|.
        loss: mean over the modalities of max(0, score(target, retain) - score(model, retain)).
    """

    gap: float
    loss: float

    @property
    def objective(self) -> float:
        """The sum of both; 0 for a model that forgets like the retain_model and keeps like the target."""
        return self.gap + self.loss


Scores = Mapping[tuple[Split, Modality], float]
"""Mean main score by set and modality."""


def main_scores(samples: Sequence[Sample], responses: Sequence[Response]) -> dict[tuple[Split, Modality], float]:
    """Score replies by the first metric of their task, averaged within each task, then over the tasks.

    A reply that cannot be read counts 0 here, unlike in a report: a search must not gain by unreadable replies.
    """
    replies = {response.sample_id: response for response in responses}
    metrics: dict[str, Metric] = {}
    for task in {sample.task for sample in samples}:
        metrics[task] = plugins.build("metrics", plugins.find("tasks", task).metrics[0], {})
    cells: dict[tuple[Split, Modality], dict[str, list[float]]] = {}
    for sample in samples:
        value = metrics[sample.task].score(sample, replies[sample.id]).value or 0.0
        cells.setdefault((sample.split, sample.modality), {}).setdefault(sample.task, []).append(value)
    return {place: _mean([_mean(values) for values in tasks.values()]) for place, tasks in cells.items()}


def standing(model: Scores, target: Scores, retain_model: Scores) -> Standing:
    """Compare the main scores of three models on the same samples.

    >>> model, target, gold = {("forget", "text"): 0.5}, {("forget", "text"): 0.9}, {("forget", "text"): 0.25}
    >>> standing(model | {("retain", "text"): 0.7}, target | {("retain", "text"): 0.9}, gold)
    Standing(gap=0.25, loss=0.20000000000000007)
    """
    gaps = [abs(value - retain_model[place]) for place, value in model.items() if place[0] == "forget"]
    losses = [max(0.0, target[place] - value) for place, value in model.items() if place[0] == "retain"]
    return Standing(gap=_mean(gaps), loss=_mean(losses))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
