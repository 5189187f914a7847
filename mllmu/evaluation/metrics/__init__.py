"""Metrics, one file each: a metric judges one reply, and says how many judgements become one number."""

import math
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import ClassVar, NamedTuple

from mllmu.config.recipe import Evaluate
from mllmu.core import plugins
from mllmu.core.declared import Direction, MetricInfo
from mllmu.core.errors import DataError
from mllmu.core.plugins import Plugin
from mllmu.core.records import CandidateLogp, Response, Sample, Score, Split, TaskName, TokenStats
from mllmu.core.replies import said
from mllmu.data.tasks import Outcome, task_of
from mllmu.evaluation.outcome import outcome

__all__ = [
    "BROKEN", "EMPTY", "NO_COMPARISON", "CandidateLogp", "Estimate", "LikelihoodMetric", "Metric", "OutcomeShare",
    "Response", "Sample", "Split", "TokenMetric", "TokenStats", "clustered_mean", "is_broken", "mean_and_error",
    "mean_logp", "measured", "metrics_of", "t_quantile",
]  # fmt: skip

NO_COMPARISON = "no likelihood for the truth or for a wrong answer"
EMPTY = "empty reply"
BROKEN = "a likelihood is not a number"


class Estimate(NamedTuple):
    """A mean with its interval; ``low`` and ``high`` are None with fewer than two clusters."""

    value: float | None
    low: float | None
    high: float | None
    num: int
    num_clusters: int


class Metric(Plugin):
    """Base of every metric: ``value`` judges one reply, ``aggregate`` turns many judgements into a mean.

    A subclass sets what it judges and what it needs:
        tasks: the tasks whose replies it judges, beside those that name it among their metrics.
        splits: only these sets, if not all concern it.
        version: raised whenever the same replies would give other numbers.
        measures: what must be measured on the model besides replies and candidates, see ``Sample.measured``.
        reads_likelihood: it reads the likelihood of candidates, which the published protocol does not compute.
        hears_thoughts: it gets replies as they are, with thoughts and invented turns. After published prompts all do.
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
    reads_likelihood: ClassVar[bool] = False
    hears_thoughts: ClassVar[bool] = False
    needs_base_logp: ClassVar[bool] = False

    label: ClassVar[str]
    unit: ClassVar[str] = "share"
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    better: ClassVar[Direction] = "higher"
    known: ClassVar[Direction | None] = None
    outcome: ClassVar[bool] = False
    collapse: ClassVar[bool] = False

    def concerns(self, task: TaskName) -> bool:
        """Whether it judges replies to this task."""
        return task in self.tasks or self.name in task_of(task).metrics

    def judges(self, split: Split, task: TaskName) -> bool:
        """Whether it judges replies to this task in this set."""
        return self.concerns(task) and (not self.splits or split in self.splits)

    @abstractmethod
    def value(self, sample: Sample, response: Response) -> float | str:
        """The value of one reply; or in words why the reply cannot be judged, which is never 0."""

    def score(self, sample: Sample, response: Response | None) -> Score:
        """The judgement of one reply; ``value`` None with a reason where there is none, or no finite number."""
        if response is None:
            return Score(sample_id=sample.id, metric=self.name, value=None, reason="no response")
        as_written = self.hears_thoughts or self.reads_likelihood or sample.raw_prompt
        if not as_written and (text := said(response.text)) != response.text:
            response = response.model_copy(update={"text": text})
        reads_likelihood = self.reads_likelihood or self.measures
        value = BROKEN if reads_likelihood and is_broken(response) else self.value(sample, response)
        if isinstance(value, float) and not math.isfinite(value):
            value = f"not a finite number: {value}"
        if isinstance(value, str):
            return Score(sample_id=sample.id, metric=self.name, value=None, reason=value)
        return Score(sample_id=sample.id, metric=self.name, value=value)

    def readable(self, value: float, split: Split) -> float:
        """The number that is averaged for one judged value; the value itself unless a metric differs by split."""
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
        named = {name: getattr(self, name) for name in ("label", "unit", "better", "outcome", "collapse")}
        about = self.summary().removesuffix(".")
        return MetricInfo(**named, percent=self.unit == "share", range=(low, high), about=about)


class LikelihoodMetric(Metric):
    """Base of the metrics that read one thing: how likely the model finds the true answer."""

    tasks = ("generation", "cloze")
    unit = "nats"
    range = (-math.inf, 0.0)
    reads_likelihood = True

    def value(self, sample: Sample, response: Response) -> float | str:
        likelihood = response.candidates.get("target")
        return self.of_likelihood(likelihood, sample.target) if likelihood else "no likelihood for the target"

    @abstractmethod
    def of_likelihood(self, likelihood: CandidateLogp, answer: str) -> float:
        """The value, given the log-probability of the answer, in nats, and the number of its tokens."""


class TokenMetric(Metric):
    """Base of the metrics that read statistics of every token of the true answer; its end token does not count."""

    tasks = ("generation", "cloze")
    measures: ClassVar[tuple[str, ...]] = ("tokens",)
    version = 2

    def value(self, sample: Sample, response: Response) -> float | str:
        content = response.tokens.without_end() if response.tokens else None
        return self.of_tokens(content) if content and content.hits else "no token statistics"

    @abstractmethod
    def of_tokens(self, tokens: TokenStats) -> float | str:
        """The value, given the statistics; or in words why there is none."""


class OutcomeShare(Metric):
    """Base of right, wrong, refused, unread and garbled: 1 for a reply with that outcome, else 0; the five add up to 1.

    The bins are our own, over the tasks of the linked paper; see :func:`mllmu.evaluation.outcome.outcome`.
    """

    source = "https://arxiv.org/abs/2410.22108"
    tasks = ("classification", "generation", "cloze")
    version = 2
    outcome = True
    hears_thoughts = True
    counted: ClassVar[Outcome]

    def value(self, sample: Sample, response: Response) -> float | str:
        return float(outcome(sample, response) == self.counted)


def is_broken(response: Response) -> bool:
    """Whether a likelihood is no number, as with weights that training has destroyed."""
    logps = [candidate.logp for candidate in response.candidates.values()]
    return not all(map(math.isfinite, [*logps, *(response.tokens.logps if response.tokens else ())]))


def mean_logp(response: Response, key: str) -> float | None:
    """Log-probability per token of a candidate reply, in nats; None if it was not computed."""
    found = response.candidates.get(key)
    return found.logp / found.num_tokens if found else None


def clustered_mean(values: Sequence[float], clusters: Sequence[str]) -> Estimate:
    """Mean over items, with a 95 % interval that knows that items of one cluster go together.

    m = sum_i x_i / n;  se = sqrt( G/(G-1) * sum_g (sum_{i in g} (x_i - m))^2 ) / n;  m -+ t(G-1) * se

    This is the clustered standard error of Miller 2024 with the CR1 small-sample factor G/(G-1) and a t quantile on
    G-1 degrees of freedom. The interval is symmetric and not cut at the metric's range.

    Args:
        values: one number per item.
        clusters: the cluster (person) of each item, same length.

    Returns:
        value None for no items. For values 1,0 | 1,1 in two clusters: 0.75, se 0.25, so 0.75 -+ 12.706 * 0.25.

    Raises:
        DataError: the lengths differ.

    Source: Miller 2024, arXiv:2411.00640, section 2.2; Cameron and Miller 2015, doi:10.3368/jhr.50.2.317.
    """
    num_clusters = len(set(clusters))
    mean, error = mean_and_error(values, clusters)
    if mean is None or error is None:
        return Estimate(mean, None, None, len(values), num_clusters)
    reach = t_quantile(num_clusters - 1) * error
    return Estimate(mean, mean - reach, mean + reach, len(values), num_clusters)


def mean_and_error(values: Sequence[float], clusters: Sequence[str]) -> tuple[float | None, float | None]:
    """Mean and CR1 standard error; None where there are no items, or fewer than two clusters."""
    if len(values) != len(clusters):
        raise DataError(f"clustered mean: got {len(values)} values and {len(clusters)} cluster ids, expected as many.")
    if not values:
        return None, None
    mean = math.fsum(values) / len(values)
    residuals: defaultdict[str, list[float]] = defaultdict(list)
    for value, cluster in zip(values, clusters, strict=True):
        residuals[cluster].append(value - mean)
    count = len(residuals)
    if count < 2:
        return mean, None
    squares = math.fsum(math.fsum(own) ** 2 for own in residuals.values())
    return mean, math.sqrt(squares * count / (count - 1)) / len(values)


def t_quantile(degrees: int) -> float:
    """The 97.5 % quantile of Student's t."""
    from scipy.special import stdtrit  # scipy is slow to import and only needed here

    return float(stdtrit(degrees, 0.975))


def metrics_of(evaluate: Evaluate) -> list[Metric]:
    """The metrics of a recipe: those it names, or all of its tasks that its protocol has the numbers for.

    Those of its general benchmarks come on top.
    """
    names = evaluate.metrics or [name for task in evaluate.tasks for name in plugins.find("tasks", task).metrics]
    if evaluate.protocol.prompts == "published" and not evaluate.metrics:
        names = [name for name in names if not plugins.find("metrics", name).reads_likelihood]
    names = [*names, *(name for spec in evaluate.benchmarks for name in plugins.find("benchmarks", spec.name).metrics)]
    summaries = [plugins.find("summaries", name) for name in plugins.expanded("summaries", evaluate.summaries)]
    names += [*evaluate.extra_metrics, *(name for s in summaries for name in s.needs)]
    return [plugins.build("metrics", name, {}) for name in dict.fromkeys(names)]


def measured(metrics: Sequence[Metric], tasks: Iterable[TaskName]) -> dict[str, tuple[str, ...]]:
    """By task, what the metrics need measured on a model besides its replies."""
    return {
        task: tuple(sorted({what for metric in metrics if metric.concerns(task) for what in metric.measures}))
        for task in tasks
    }
