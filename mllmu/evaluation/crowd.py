"""Everybody who was asked, to be drawn again: the same questions and replies, other people.

Somebody drawn twice is two people with names of their own. Questions are renamed with them, so facts are paired,
answers ranked and distributions compared as if the second person had been asked too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from mllmu.core import plugins
from mllmu.core.records import MetricResult, Response, Sample, Split
from mllmu.core.seeding import rng
from mllmu.evaluation.metrics import Metric
from mllmu.evaluation.scored_run import ScoredRun

V = TypeVar("V")
Table = NDArray[np.float64]


def group_of(split: Split) -> Split:
    """The group of people that a set belongs to: forget and test ask the same people, so they are drawn together."""
    return "forget" if split == "test" else split


class Lazy(Mapping[str, V]):
    """A mapping whose values are made when they are first asked for."""

    def __init__(self, keys: Iterable[str], make: Callable[[str], V]) -> None:
        self._keys = dict.fromkeys(keys)
        self._make = make
        self._made: dict[str, V] = {}

    def __getitem__(self, key: str) -> V:
        if key not in self._made:
            if key not in self._keys:
                raise KeyError(key)
            self._made[key] = self._make(key)
        return self._made[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


class LazyResults(Sequence[MetricResult]):
    """Results that are averaged when the first of them is asked for: most summaries read none."""

    def __init__(self, length: int, make: Callable[[], list[MetricResult]]) -> None:
        self._length = length
        self._make = make

    @cached_property
    def _made(self) -> list[MetricResult]:
        return self._make()

    @overload
    def __getitem__(self, place: int) -> MetricResult: ...

    @overload
    def __getitem__(self, place: slice) -> list[MetricResult]: ...

    def __getitem__(self, place: int | slice) -> MetricResult | list[MetricResult]:
        return self._made[place]

    def __iter__(self) -> Iterator[MetricResult]:
        return iter(self._made)

    def __len__(self) -> int:
        return self._length


@dataclass(frozen=True)
class Crowd:
    """People by group, and what they were asked."""

    everything: ScoredRun
    groups: dict[Split, dict[str, list[Sample]]]
    _renamed: dict[tuple[str, int], Sample] = field(default_factory=dict)

    @classmethod
    def of(cls, everything: ScoredRun) -> Crowd:
        """Everybody in the samples; groups and people in the order of their names."""
        found: dict[Split, dict[str, list[Sample]]] = {}
        for sample in everything.samples.values():
            found.setdefault(group_of(sample.split), {}).setdefault(sample.profile_id, []).append(sample)
        return cls(everything, {group: dict(sorted(found[group].items())) for group in sorted(found)})

    def drawn(self, seed: int, number: int) -> ScoredRun:
        """As many people of every group, drawn with replacement.

        Who is drawn depends on the seed, the number of the draw and the names in a group, so neither other groups nor
        the models change it.
        """
        times = {}
        for group, people in self.groups.items():
            names = list(people)
            chosen = Counter(rng(seed, "people drawn again", group, number).choices(names, k=len(names)))
            times[group] = [chosen[name] for name in names]
        return self.again(times)

    def without(self, group: Split) -> ScoredRun:
        """Everybody but one group, to see which numbers rest on it."""
        samples = {key: s for key, s in self.everything.samples.items() if group_of(s.split) != group}
        results = [result for result in self.everything.results if group_of(result.split) != group]
        return replace(self.everything, samples=samples, results=results)

    def again(self, times: Mapping[Split, Sequence[int]]) -> ScoredRun:
        """Everything with each person as often as is said, group by group in the order of the people."""
        copies = [
            (self._copy(sample, copy), sample.id)
            for group, people in self.groups.items()
            for samples, often in zip(people.values(), times[group], strict=True)
            for copy in range(often)
            for sample in samples
        ]
        origin = [(sample.id, first) for sample, first in copies]
        every = self.everything
        return replace(
            every,
            samples={sample.id: sample for sample, _ in copies},
            values={m: Lazy(table, partial(_renamed_values, table, origin)) for m, table in every.values.items()},
            responses=Lazy(every.responses, partial(_renamed_replies, every.responses, origin)),
            results=LazyResults(len(every.results), partial(self._averages.over, times)),
        )

    def _copy(self, sample: Sample, copy: int) -> Sample:
        """A sample of the first, second, ... time that its person is drawn."""
        if copy == 0:
            return sample
        if (sample.id, copy) not in self._renamed:
            names = {"id": f"{sample.id}#{copy + 1}", "profile_id": f"{sample.profile_id}#{copy + 1}"}
            self._renamed[sample.id, copy] = sample.model_copy(update=names)
        return self._renamed[sample.id, copy]

    @cached_property
    def _averages(self) -> Averages:
        return Averages(self)


def _renamed_values(
    table: Mapping[str, Mapping[str, float | None]], origin: Iterable[tuple[str, str]], metric: str
) -> Mapping[str, float | None]:
    find = table[metric].get
    return {new: find(old) for new, old in origin}


def _renamed_replies(
    replies: Mapping[str, Mapping[str, Response]], origin: Iterable[tuple[str, str]], model: str
) -> Mapping[str, Response]:
    of_model = replies[model]
    return {new: of_model[old] for new, old in origin if old in of_model}


class Averages:
    """The averaged metrics, ready to be averaged again: sums and counts of judged values by person [P, R]."""

    def __init__(self, crowd: Crowd) -> None:
        self.results = crowd.everything.results
        self.values: list[float | None] = [result.value for result in self.results]
        self._metrics: dict[str, Metric] = {}
        self._tables: dict[Split, tuple[list[int], Table, Table]] = {}
        for group, people in crowd.groups.items():
            places = [n for n, result in enumerate(self.results) if self._of_people(crowd, result, group)]
            sums_PR, counts_PR = np.zeros((2, len(people), len(places)))
            row = {person: n for n, person in enumerate(people)}
            for column, place in enumerate(places):
                for person, value in self._judged(crowd.everything, self.results[place]):
                    sums_PR[row[person], column] += value
                    counts_PR[row[person], column] += 1
            self._tables[group] = (places, sums_PR, counts_PR)

    def over(self, times: Mapping[Split, Sequence[int]]) -> list[MetricResult]:
        """The results over people drawn so many times each; counts and bounds are left as they were.

        None where nobody drawn has a judged value. Rows that are no model's, and metrics with an average of their own
        (``aggregate``), which cannot be averaged by person, keep their values.
        """
        values = list(self.values)
        for group, (places, sums_PR, counts_PR) in self._tables.items():
            often_P = np.asarray(times[group], dtype=float)
            for place, total, count in zip(places, often_P @ sums_PR, often_P @ counts_PR, strict=True):
                metric = self._metric(self.results[place].metric)
                values[place] = metric.of_mean(float(total / count)) if count else None
        return [
            result if result.value == value else result.model_copy(update={"value": value})
            for result, value in zip(self.results, values, strict=True)
        ]

    def _of_people(self, crowd: Crowd, result: MetricResult, group: Split) -> bool:
        """Whether a result is a mean over people of a group."""
        known = crowd.everything.values.get(result.model, {})
        return (
            group_of(result.split) == group
            and result.metric in known
            and type(self._metric(result.metric)).aggregate is Metric.aggregate
        )

    def _judged(self, everything: ScoredRun, result: MetricResult) -> Iterator[tuple[str, float]]:
        values = everything.values[result.model][result.metric]
        metric = self._metric(result.metric)
        for sample in everything.asked(result.split, result.modality, result.task):
            value = values.get(sample.id)
            if value is not None:
                yield sample.profile_id, metric.readable(value, result.split)

    def _metric(self, name: str) -> Metric:
        if name not in self._metrics:
            self._metrics[name] = plugins.build("metrics", name, {})
        return self._metrics[name]
