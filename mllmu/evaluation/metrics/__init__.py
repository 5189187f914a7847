"""Metrics, one file each: a metric judges one reply, and says how many judgements become one number."""

import math
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, NamedTuple

from mllmu.config.recipe import Evaluate
from mllmu.core import plugins
from mllmu.core.declared import THESE_PEOPLE, Direction, MetricInfo
from mllmu.core.errors import DataError
from mllmu.core.plugins import Plugin
from mllmu.core.records import TO_FORGET, CandidateLogp, Response, Sample, Score, Split, TaskName, TokenStats
from mllmu.core.replies import said
from mllmu.data.tasks import task_of

__all__ = [
    "BROKEN", "EMPTY", "CandidateLogp", "Estimate", "Metric", "Response", "Sample", "Split", "TokenStats",
    "clustered_mean", "interval_around", "is_broken", "likeliest_is_right", "measured", "metrics_of",
]  # fmt: skip

EMPTY = "empty reply"
BROKEN = "a likelihood is not a number"
UNBOUNDED = (-math.inf, math.inf)
PRIOR_PEOPLE, PRIOR_CORRELATION = 4, 0.1
"""What the spread between people is shrunk to: as many people more, whose questions are correlated so much."""


class Estimate(NamedTuple):
    """A mean with its interval; ``low`` and ``high`` are None where nothing tells how much it could vary."""

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
        plain = type(self).of_mean is Metric.of_mean
        found = clustered_mean([self.readable(v, split) for v in values], clusters, self.range if plain else UNBOUNDED)
        mean, low, high = (None if bound is None else self.of_mean(bound) for bound in found[:3])
        if mean is not None and low is not None and high is not None:
            low, high = min(mean, max(low, self.range[0])), max(mean, min(high, self.range[1]))
        return Estimate(mean, low, high, found.num, found.num_clusters)

    @property
    def bounded(self) -> bool:
        """Whether plain means of values between two ends are shown, so that replies without a value have bounds too."""
        plain = (getattr(type(self), name) is getattr(Metric, name) for name in ("readable", "of_mean", "aggregate"))
        return all(map(math.isfinite, self.range)) and all(plain)

    def unread(self, split: Split) -> tuple[float, float]:
        """What a reply without a value counts as against the model (known on forget and test, wrong elsewhere, so that
        none gains by replies that cannot be read), and for it. Infinite where the range has no such end.
        """
        known = (self.known or self.better) if split in TO_FORGET else self.better
        low, high = self.range if known == "higher" else self.range[::-1]
        return (high, low) if split in TO_FORGET else (low, high)

    def headline_value(self, value: float | None, split: Split) -> float:
        """The value of a reply in headline scores, the same in reports, ``pool`` and ``tune``; see :meth:`unread`."""
        return self.unread(split)[0] if value is None else value

    def info(self) -> MetricInfo:
        """What a report needs to know about the metric."""
        low, high = (bound if math.isfinite(bound) else None for bound in self.range)
        named = {name: getattr(self, name) for name in ("label", "unit", "better", "outcome", "collapse")}
        about = self.summary().removesuffix(".")
        return MetricInfo(**named, percent=self.unit == "share", range=(low, high), about=about)


def is_broken(response: Response) -> bool:
    """Whether a likelihood is no number, as with weights that training has destroyed."""
    logps = [candidate.logp for candidate in response.candidates.values()]
    return not all(map(math.isfinite, [*logps, *(response.tokens.logps if response.tokens else ())]))


def likeliest_is_right(sample: Sample, scores: Mapping[str, float | None]) -> float | str:
    """1 if the right option of a multiple choice has the highest score, else 0; a reason where that cannot be said.

    It cannot if a score is missing, or if several options share the highest one.
    """
    known = {letter: score for letter in sorted(sample.options) if (score := scores.get(letter)) is not None}
    if missing := sorted(set(sample.options) - set(known)):
        return f"no likelihood for option {', '.join(missing)}"
    best = [letter for letter, score in known.items() if score == max(known.values())]
    if len(best) > 1:
        return f"options {', '.join(best)} are equally likely"
    return float(best[0] == sample.target)


def clustered_mean(
    values: Sequence[float], clusters: Sequence[str], bounds: tuple[float, float] = UNBOUNDED
) -> Estimate:
    """Mean over items, with a 95 % interval that knows that items of one person go together.

    n items of G people, n_g each; m their mean, w = (m-a)(b-m) the largest variance between the bounds a and b
        v        = ( sum_i (x_i - m)^2 + w ) / (n + 1)
        between  = G/(G-1) * sum_g (sum_{i in g} (x_i - m))^2 / n^2
        expected = v/n + 0.1 * w * sum_g n_g (n_g - 1) / n^2
        se^2     = max( ((G-1) * between + 4 * expected) / (G+3), v/n )
    and the interval is that of :func:`interval_around` with G+3 degrees of freedom. Without bounds, or with values
    outside, w is the mean of (x_i - m)^2; no interval then if all items are alike. Value None for no items.

    ``between`` (CR1) is a poor estimate from few people: it is shrunk to what a correlation of 0.1 within people gives,
    with the weight of four people; v likewise, of one item. With one or two people (``clusters``, one of each item)
    each item is a cluster of its own: the mean is about questions about them, as two people tell nothing about others.

    Raises:
        DataError: the lengths differ.

    Source: Miller 2024, arXiv:2411.00640, section 2.2; Cameron and Miller 2015, doi:10.3368/jhr.50.2.317.
    """
    if len(values) != len(clusters):
        raise DataError(f"clustered mean: got {len(values)} values and {len(clusters)} cluster ids, expected as many.")
    num, people = len(values), len(set(clusters))
    if not num:
        return Estimate(None, None, None, 0, 0)
    units = range(num) if people <= THESE_PEOPLE else clusters
    mean = math.fsum(values) / num
    residuals: defaultdict[object, list[float]] = defaultdict(list)
    for value, unit in zip(values, units, strict=True):
        residuals[unit].append(value - mean)
    count = len(residuals)
    sizes = [len(own) for own in residuals.values()]
    inside = bounds[0] <= min(values) and max(values) <= bounds[1] and not math.isinf(bounds[1] - bounds[0])
    squares = math.fsum((value - mean) ** 2 for value in values) if min(values) < max(values) else 0.0
    widest = (mean - bounds[0]) * (bounds[1] - mean) if inside else squares / num
    item = (squares + widest) / (num + 1) / num if squares else 0.0
    between = math.fsum(math.fsum(own) ** 2 for own in residuals.values()) / num**2 * count  # times G - 1
    expected = item + PRIOR_CORRELATION * widest * sum(size * (size - 1) for size in sizes) / num**2
    degrees = count - 1 + PRIOR_PEOPLE
    variance = max((between + PRIOR_PEOPLE * expected) / degrees, item) if squares else 0.0
    low, high = interval_around(mean, variance, degrees, bounds if inside else UNBOUNDED, count)
    return Estimate(mean, low, high, num, people)


def interval_around(
    mean: float, variance: float, degrees: int, bounds: tuple[float, float], units: int
) -> tuple[float | None, float | None]:
    """95 % interval of a mean m with an estimated variance; it never leaves its bounds a and b, nor is it empty.

    m -+ t se without bounds; between bounds Wilson's, with q = (m-a)/(b-a) and N = q(1-q) (b-a)^2 / se^2:
        ( q + t^2/2N -+ t sqrt(q(1-q)/N + t^2/4N^2) ) / (1 + t^2/N),  scaled back to a and b
    Without any variance N is the number of units (people), who leave open a share r = t^2 / (N + t^2) that differs, as
    far as a bound: m - r (m-a) to m + r (b-m), which is Wilson's at a bound. None without bounds and variance.

    Source: Wilson 1927, doi:10.1080/01621459.1927.10502953; N as in Korn and Graubard 1998 (Survey Methodology 24).
    """
    from scipy.special import stdtrit  # scipy is slow to import and only needed here

    reach, width = float(stdtrit(degrees, 0.975)), bounds[1] - bounds[0]
    if math.isinf(width):
        error = reach * math.sqrt(variance)
        return (mean - error, mean + error) if variance else (None, None)
    share = min(1.0, max(0.0, (mean - bounds[0]) / width))
    spread = share * (1 - share)
    if spread and not variance:
        differ = reach**2 / (units + reach**2)
        return mean - differ * (mean - bounds[0]), mean + differ * (bounds[1] - mean)
    count = spread * width**2 / variance if spread else units
    middle, scale = share + reach**2 / (2 * count), 1 + reach**2 / count
    half = reach * math.sqrt(spread / count + (reach / (2 * count)) ** 2)
    low, high = ((middle + side) / scale * width + bounds[0] for side in (-half, half))
    return max(bounds[0], min(low, mean)), min(bounds[1], max(high, mean))


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
