"""Metrics, one file each: a metric judges one reply, and says how many judgements become one number."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal

from mllmu.core.plugins import Plugin
from mllmu.core.records import Response, Sample, Score, Split, TaskName
from mllmu.evaluation.outcome import Outcome, outcome
from mllmu.evaluation.stats import Estimate, clustered_mean

Ideal = Literal["higher", "lower", "retain_model"]


class Metric(Plugin):
    """Base of every metric: ``score`` judges one reply, ``aggregate`` turns many judgements into a mean.

    A subclass sets ``tasks`` (what it can judge), ``splits`` (only if not all sets concern it), ``unit``, ``range``
    (lowest and highest value of the aggregate), ``version`` (raised whenever the same replies would give other
    numbers), ``label`` (a column title), ``best`` (the good direction where knowledge is wanted), ``known`` (the
    direction of a model that knows the forget people, if not ``best``), and ``measures``
    (what must be measured on the model besides replies and candidates, see ``Sample.measured``), and
    ``needs_base_logp`` (it needs the likelihood of the replies under the base model, see ``Response.base_logp``).
    """

    tasks: ClassVar[tuple[TaskName, ...]]
    splits: ClassVar[tuple[Split, ...]] = ()
    unit: ClassVar[str] = "share"
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    version: ClassVar[int] = 1
    label: ClassVar[str]
    best: ClassVar[Literal["higher", "lower"]] = "higher"
    known: ClassVar[Literal["higher", "lower"] | None] = None
    measures: ClassVar[tuple[str, ...]] = ()
    needs_base_logp: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """The plug-in's name, which is the name of its file."""
        return type(self).__module__.rpartition(".")[2]

    def judges(self, split: Split, task: TaskName) -> bool:
        """Whether it judges replies to this task in this set."""
        return task in self.tasks and (not self.splits or split in self.splits)

    @abstractmethod
    def score(self, sample: Sample, response: Response) -> Score:
        """Judge one reply; a reply that cannot be judged gets value None and a reason, never 0."""

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

    def higher_is(self, split: Split) -> Ideal:
        """Where the ideal lies: on forget and test the value of the retain_model, elsewhere the metric's ``best``.

        On the forgotten people the extreme is not the ideal: a model that avoids the truth more than one that never
        saw it still shows that it knows it.
        """
        return "retain_model" if split in ("forget", "test") else self.best

    def judged(self, sample: Sample, value: float | None, reason: str = "") -> Score:
        """Make the score of a sample; a value that is not a finite number becomes None with a reason."""
        if value is not None and not math.isfinite(value):
            return Score(sample_id=sample.id, metric=self.name, value=None, reason=f"not a finite number: {value}")
        return Score(sample_id=sample.id, metric=self.name, value=value, reason=reason)


class OutcomeShare(Metric):
    """Base of right, wrong, refused and garbled: 1 for a reply with that outcome, 0 otherwise; the four add up to 1.

    The bins are our own, over the tasks of the linked paper; see :func:`mllmu.evaluation.outcome.outcome`.
    """

    tasks: ClassVar[tuple[TaskName, ...]] = ("classification", "generation", "cloze")
    counted: ClassVar[Outcome]

    def score(self, sample: Sample, response: Response) -> Score:
        return self.judged(sample, float(outcome(sample, response) == self.counted))


def mean_logp(response: Response, key: str) -> float | None:
    """Log-probability per token of a candidate reply, in nats; None if it was not computed."""
    found = response.candidates.get(key)
    return found.logp / found.num_tokens if found else None
