"""Metrics, one file each: a metric judges one reply, and says how many judgements become one number."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from mllmu.core.declared import Direction, MetricInfo
from mllmu.core.plugins import Plugin, name_of
from mllmu.core.records import Response, Sample, Score, Split, TaskName
from mllmu.evaluation.outcome import Outcome, outcome
from mllmu.evaluation.stats import Estimate, clustered_mean

NO_LIKELIHOOD = "no likelihood for the target"
NO_COMPARISON = "no likelihood for the truth or for a wrong answer"
NO_TOKENS = "no token statistics"
EMPTY = "empty reply"


class Metric(Plugin):
    """Base of every metric: ``value`` judges one reply, ``aggregate`` turns many judgements into a mean.

    A subclass sets what it judges and what it needs:
        tasks: the tasks whose replies it judges; ``splits``: only these sets, if not all concern it.
        version: raised whenever the same replies would give other numbers.
        measures: what must be measured on the model besides replies and candidates, see ``Sample.measured``.
        needs_base_logp: it needs the likelihood of the replies under the base model, see ``Response.base_logp``.

    and how its mean is read:
        label, unit, better, outcome, collapse: see :class:`mllmu.core.declared.MetricInfo`; a share is in percent.
        range: lowest and highest value of the mean.
        known: the direction of a model that knows the forget people, if not ``better``.
    """

    tasks: ClassVar[tuple[TaskName, ...]]
    splits: ClassVar[tuple[Split, ...]] = ()
    version: ClassVar[int] = 1
    measures: ClassVar[tuple[str, ...]] = ()
    needs_base_logp: ClassVar[bool] = False

    label: ClassVar[str]
    unit: ClassVar[str] = "share"
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    better: ClassVar[Direction] = "higher"
    known: ClassVar[Direction | None] = None
    outcome: ClassVar[bool] = False
    collapse: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """The name that a recipe has for it."""
        return name_of(type(self))

    def judges(self, split: Split, task: TaskName) -> bool:
        """Whether it judges replies to this task in this set."""
        return task in self.tasks and (not self.splits or split in self.splits)

    @abstractmethod
    def value(self, sample: Sample, response: Response) -> float | str:
        """The value of one reply; or in words why the reply cannot be judged, which is never 0."""

    def score(self, sample: Sample, response: Response | None) -> Score:
        """The judgement of one reply; ``value`` None with a reason where there is none, or no finite number."""
        value = "no response" if response is None else self.value(sample, response)
        if isinstance(value, float) and not math.isfinite(value):
            value = f"not a finite number: {value}"
        if isinstance(value, str):
            return Score(sample_id=sample.id, metric=self.name, value=None, reason=value)
        return Score(sample_id=sample.id, metric=self.name, value=value)

    def readable(self, value: float, split: Split) -> float:
        """The number that is averaged for one judged value; the value itself unless a metric differs by split."""
        del split
        return value

    def of_mean(self, mean: float) -> float:
        """The number that is shown for a mean; the mean itself unless a metric averages on another scale. Rising."""
        return mean

    def aggregate(self, values: Sequence[float], clusters: Sequence[str], *, split: Split) -> Estimate:
        """Mean over judged values with a 95 % interval clustered by person (``clusters``: one person id per value)."""
        found = clustered_mean([self.readable(value, split) for value in values], clusters)
        value, low, high = (None if bound is None else self.of_mean(bound) for bound in found[:3])
        return Estimate(value, low, high, found.num, found.num_clusters)

    def info(self) -> MetricInfo:
        """What a report needs to know about the metric."""
        low, high = (bound if math.isfinite(bound) else None for bound in self.range)
        return MetricInfo(
            label=self.label,
            unit=self.unit,
            percent=self.unit == "share",
            range=(low, high),
            better=self.better,
            outcome=self.outcome,
            collapse=self.collapse,
            about=self.summary().removesuffix("."),
        )


class OutcomeShare(Metric):
    """Base of right, wrong, refused and garbled: 1 for a reply with that outcome, 0 otherwise; the four add up to 1.

    The bins are our own, over the tasks of the linked paper; see :func:`mllmu.evaluation.outcome.outcome`.
    """

    source = "https://arxiv.org/abs/2410.22108"
    tasks = ("classification", "generation", "cloze")
    outcome = True
    counted: ClassVar[Outcome]

    def value(self, sample: Sample, response: Response) -> float | str:
        return float(outcome(sample, response) == self.counted)


def mean_logp(response: Response, key: str) -> float | None:
    """Log-probability per token of a candidate reply, in nats; None if it was not computed."""
    found = response.candidates.get(key)
    return found.logp / found.num_tokens if found else None
