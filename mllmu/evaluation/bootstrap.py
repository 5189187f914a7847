"""Bootstrap over people: an interval for any number about whole models.

A summary may pair questions, rank people or compare models, so no formula gives its error. Here people are drawn with
replacement, with all questions about a person and the responses of all models to them, and every summary is computed
again from the people drawn (a cluster bootstrap). All models get the same people in a draw, so what compares models
stays paired. The models are taken as they are: the intervals are about other people, not about another training.

Of one or two people it is their facts that are drawn (a fact, see :func:`mllmu.core.records.fact_of`): two people
tell nothing about others, so these intervals are about other questions about the same people.

A person who is drawn twice counts as two people with names of their own. Their questions are renamed with them, so
facts are paired, answers ranked and distributions compared as if a second person had been asked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mllmu.core import plugins
from mllmu.core.declared import THESE_PEOPLE
from mllmu.core.errors import RecipeError
from mllmu.core.process import rng
from mllmu.core.records import KEPT, THROUGH, MetricResult, Sample, Split, Summary
from mllmu.evaluation.metrics import Metric, interval_around
from mllmu.evaluation.stats import bootstrap_interval, unit_of
from mllmu.evaluation.summaries import COPY, RowKey, ScoredRun, Summariser

DRAWS = 150
FEW = 20
"""From so many people or facts or fewer, percentiles of draws do not reach far enough: of three, not beyond any."""
UNDEFINED = 0.05
"""A number that cannot be computed in a larger share of the draws has no interval."""
ROUNDING = 1e-12
"""Sums of the same numbers in another order differ by less."""

Table = NDArray[np.float64]


def draw(names: Sequence[str], *, seed: int, group: str, number: int) -> list[int]:
    """How often each name is drawn, when as many as there are are drawn with replacement.

    It depends on the seed, the group, the number of the draw and the names, so other groups change nothing.
    """
    # the words name a stream of random numbers: other words would change every interval
    drawn = Counter(rng(seed, "people drawn again", group, number).choices(names, k=len(names)))
    return [drawn[name] for name in names]


def summarise(summaries: Sequence[Summariser], run: ScoredRun, *, seed: int = 0) -> list[Summary]:
    """Run summaries over the scores and replies of all models; ``seed`` draws people for the intervals.

    Raises:
        RecipeError: a metric that a summary reads was not scored.
    """
    scored = {metric for table in run.values.values() for metric in table}
    for summary in summaries:
        if missing := sorted(set(summary.needs) - scored):
            raise RecipeError(
                f"evaluate.summaries: {summary.name} reads the metric {missing[0]}, which was not scored. "
                "Add its task to evaluate.tasks, or leave the summary out."
            )
    return with_intervals(summaries, run, seed=seed)


def with_intervals(summaries: Sequence[Summariser], run: ScoredRun, *, seed: int = 0) -> list[Summary]:
    """Compute summaries and give each of their numbers its 95 % interval over people.

    The bounds are percentiles of what the draws give, further out where there are few people, see
    :func:`mllmu.evaluation.stats.bootstrap_interval`. From 20 people or facts or fewer they come from the spread of the
    draws, see :func:`mllmu.evaluation.metrics.interval_around`: se^2 = G/(G-1) * variance, with t(G-1).
    People are counted in the smallest group that a number rests on, or behind the number if those are fewer, see
    :meth:`mllmu.evaluation.summaries.Summariser.behind`.

    Args:
        summaries: what to compute.
        run: the scores and responses of all models.
        seed: of the draws.

    Returns:
        The rows of all summaries. ``low`` and ``high`` are None, and the note says why unless it says something else,
        where the summary says so, where a number rests on one fact, cannot be computed in more than 5 % of the draws
        or is the same in all, and where the draws do not reach the number: then they are off by more than they spread.
    """
    computed = [(summary, summary.summarise(run)) for summary in summaries]
    why_not = {_key(row): summary.no_interval(row.detail) for summary, rows in computed for row in rows}
    values = {_key(row): row.value for _, rows in computed for row in rows if row.value is not None}
    keys = [key for key in values if not why_not[key] and key[0] in run.values]
    wanted = [summary for summary, rows in computed if any(not why_not[_key(row)] for row in rows)]
    limits = {_key(row): summary.limits(row.detail) for summary, rows in computed for row in rows}
    people = PeopleGroups(run)
    drawn_DK = np.array([_values(wanted, people.drawn(seed, number), keys) for number in range(DRAWS if keys else 0)])
    smallest_K = _smallest_groups(wanted, people, keys, values)
    bounds = {key: _interval(drawn_DK[:, k], values[key], smallest_K[k], limits[key]) for k, key in enumerate(keys)}
    return [_bounded(row, bounds.get(_key(row), why_not[_key(row)])) for _, rows in computed for row in rows]


def _key(row: Summary) -> RowKey:
    return (row.model, row.summary, row.detail, row.split, row.modality)


def _values(summaries: Sequence[Summariser], run: ScoredRun, keys: Sequence[RowKey]) -> Table:
    """The numbers of some rows, NaN where there is none."""
    values = {_key(row): row.value for summary in summaries for row in summary.summarise(run)}
    return np.array([np.nan if (value := values.get(key)) is None else value for key in keys], dtype=float)


def _smallest_groups(
    summaries: Sequence[Summariser], people: PeopleGroups, keys: Sequence[RowKey], values: Mapping[RowKey, float]
) -> list[int]:
    """Units that each number rests on, in the smallest group without which it changes or is gone, or behind it."""
    now_K = np.array([values[key] for key in keys])
    smallest_K = np.full(len(keys), min(map(len, people.groups.values()), default=0))
    rests_K = np.full(len(keys), np.inf)
    for group, members in people.groups.items():
        changed_K = _values(summaries, people.without(group), keys) != now_K
        rests_K[changed_K] = np.minimum(rests_K[changed_K], len(members))
    behind = {key: names for summary in summaries for key, names in summary.behind(people.run).items() if key in values}
    units = {key: len({people.unit(people.run.samples[name]) for name in names}) for key, names in behind.items()}
    counts = np.where(np.isinf(rests_K), smallest_K, rests_K)
    return [min(int(count), units.get(key, int(count))) for key, count in zip(keys, counts, strict=True)]


def _interval(
    drawn_D: Table, value: float, units: int, limits: tuple[float, float]
) -> tuple[float | None, float | None] | str:
    """The interval, or why there is none."""
    defined = drawn_D[np.isfinite(drawn_D)]
    if len(defined) < (1 - UNDEFINED) * len(drawn_D):
        return f"no interval: cannot be computed in {1 - len(defined) / len(drawn_D):.0%} of the draws of people"
    if units < 2:
        return "no interval from one fact"
    if np.allclose(defined, value, rtol=ROUNDING, atol=ROUNDING):
        return "no interval: the same in every draw of people"
    low, high = bootstrap_interval(defined.tolist(), units)
    if not low - ROUNDING <= value <= high + ROUNDING:
        return "no interval: moves one way when people are drawn twice"
    if units <= FEW:
        return interval_around(value, float(defined.var()) * units / (units - 1), units - 1, limits, units)
    return min(low, value), max(high, value)


def _bounded(row: Summary, bounds: tuple[float | None, float | None] | str) -> Summary:
    if isinstance(bounds, str):
        return row.model_copy(update={"note": row.note or bounds}) if bounds and row.value is not None else row
    return row.model_copy(update={"low": bounds[0], "high": bounds[1]})


def group_of(split: Split) -> Split:
    """The group of people that a set belongs to: sets that ask the same people are drawn together."""
    return "forget" if split in ("test", KEPT, THROUGH) else split


class PeopleGroups:
    """The units of a scored run by group, with the samples about each; groups and units in the order of names.

    A unit is a person, or a fact in a group of one or two people.
    """

    def __init__(self, run: ScoredRun) -> None:
        self.run = run
        self.people: dict[Split, set[str]] = {}
        for sample in run.samples.values():
            self.people.setdefault(group_of(sample.split), set()).add(sample.profile_id)
        found: dict[Split, dict[str, list[Sample]]] = {}
        for sample in run.samples.values():
            found.setdefault(group_of(sample.split), {}).setdefault(self.unit(sample), []).append(sample)
        self.groups = {group: dict(sorted(found[group].items())) for group in sorted(found)}
        self._copies: dict[tuple[str, int], Sample] = {}

    def unit(self, sample: Sample) -> str:
        """The person of a sample, or the fact in a group of one or two people."""
        return unit_of(sample, few=len(self.people[group_of(sample.split)]) <= THESE_PEOPLE)

    def drawn(self, seed: int, number: int) -> ScoredRun:
        """As many units of every group as there are, drawn with replacement."""
        return self.repeated({g: draw(list(p), seed=seed, group=g, number=number) for g, p in self.groups.items()})

    def without(self, group: Split) -> ScoredRun:
        """All people but one group, to see which numbers rest on it."""
        samples = {key: s for key, s in self.run.samples.items() if group_of(s.split) != group}
        results = [result for result in self.run.results if group_of(result.split) != group]
        return replace(self.run, samples=samples, average=lambda: results)

    def repeated(self, counts: Mapping[Split, Sequence[int]]) -> ScoredRun:
        """The run with each unit counted so many times, group by group in the order of the units."""
        copies = [
            (self._copy(sample, copy), sample.id)
            for group, people in self.groups.items()
            for samples, count in zip(people.values(), counts[group], strict=True)
            for copy in range(count)
            for sample in samples
        ]
        return replace(
            self.run,
            samples={sample.id: sample for sample, _ in copies},
            originals={sample.id: original for sample, original in copies if sample.id != original},
            average=lambda: self._averaged(counts),
        )

    def _copy(self, sample: Sample, copy: int) -> Sample:
        """A sample of the first, second, ... time that its unit is drawn."""
        if copy == 0:
            return sample
        if (sample.id, copy) not in self._copies:
            names = {"id": f"{sample.id}{COPY}{copy + 1}", "profile_id": f"{sample.profile_id}{COPY}{copy + 1}"}
            self._copies[sample.id, copy] = sample.model_copy(update=names)
        return self._copies[sample.id, copy]

    def _averaged(self, counts: Mapping[Split, Sequence[int]]) -> list[MetricResult]:
        """The results over people counted so many times each; counts of replies and bounds are left as they were.

        None where no person drawn has a judged value. Rows of baselines, and metrics with an average of their own
        (``aggregate``), which cannot be averaged by person, keep their values.
        """
        values = [result.value for result in self.run.results]
        for group, (columns, sums_PR, counts_PR) in self._sums.items():
            times_P = np.asarray(counts[group], dtype=float)
            for index, total, count in zip(columns, times_P @ sums_PR, times_P @ counts_PR, strict=True):
                metric = self._metrics[self.run.results[index].metric]
                values[index] = metric.of_mean(float(total / count)) if count else None
        return [
            result if result.value == value else result.model_copy(update={"value": value})
            for result, value in zip(self.run.results, values, strict=True)
        ]

    @cached_property
    def _sums(self) -> dict[Split, tuple[list[int], Table, Table]]:
        """By group: which results are means over its people, and sums and counts of their judged values [P, R]."""
        tables = {}
        for group, members in self.groups.items():
            columns = [n for n, result in enumerate(self.run.results) if self._is_mean_over(group, result)]
            sums_PR, counts_PR = np.zeros((2, len(members), len(columns)))
            row = {person: n for n, person in enumerate(members)}
            for column, index in enumerate(columns):
                for person, value in self._judged(self.run.results[index]):
                    sums_PR[row[person], column] += value
                    counts_PR[row[person], column] += 1
            tables[group] = (columns, sums_PR, counts_PR)
        return tables

    @cached_property
    def _metrics(self) -> dict[str, Metric]:
        return {name: plugins.build("metrics", name, {}) for name in {r.metric for r in self.run.results}}

    def _is_mean_over(self, group: Split, result: MetricResult) -> bool:
        if group_of(result.split) != group or result.metric not in self.run.values.get(result.model, {}):
            return False
        return type(self._metrics[result.metric]).aggregate is Metric.aggregate

    def _judged(self, result: MetricResult) -> list[tuple[str, float]]:
        """Unit and value of every judged reply behind a result."""
        judged = self.run.judged(
            result.model, result.metric, split=result.split, modality=result.modality, task=result.task
        )
        readable = self._metrics[result.metric].readable
        return [(self.unit(self.run.samples[name]), readable(v, result.split)) for name, v in judged.items()]
