"""Summaries, one file each: numbers about whole models that no single reply gives.

A metric judges one reply. A summary sees the scores and replies of all models at once, so it can pair the two questions
about one fact, rank forgotten against unknown people, or compare a model with the retain_model.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import product
from typing import ClassVar

from mllmu.core import plugins
from mllmu.core.declared import ColumnSpec, TableSpec
from mllmu.core.errors import DataError
from mllmu.core.names import RETAIN_MODEL, TARGET
from mllmu.core.plugins import Plugin
from mllmu.core.records import (
    FORGOTTEN,
    MODALITIES,
    MetricResult,
    Modality,
    Profile,
    Response,
    Sample,
    Score,
    Split,
    Summary,
    fact_of,
)
from mllmu.evaluation.scoring import ordered, samples_by_id, values_by_metric

__all__ = [
    "FORGOTTEN", "ColumnSpec", "Modality", "ScoredRun", "Split", "Summariser", "Summary", "TableSpec",
    "build_all", "mean", "person_of",
]  # fmt: skip

Fact = tuple[str, ...]
"""Split, task, and what :func:`mllmu.core.records.fact_of` says: what is asked in both modalities."""
Floats = list[float]
RowKey = tuple[str, str, str, str, str]
"""Model, summary, detail, split and modality of a row."""
COPY = "#"
"""Before the number of a copy, in the names of people and samples that a bootstrap draws more than once."""


@dataclass(frozen=True, kw_only=True)
class ScoredRun:
    """The scores and responses of all models, and the samples that count.

    Attributes:
        samples: those of the part ``report``, by id. ``values`` and ``responses`` may hold more.
        values: model -> metric -> sample id -> value; None where a reply could not be judged.
        responses: model -> sample id -> response.
        average: gives ``results``, the averaged metrics of all models; called when they are first read.
        people: attributes of the people by id; of a person who was drawn more than once, that is before the ``#``.
        originals: of such a person, sample id -> id in ``values`` and ``responses``.
        like_forgotten: gives :func:`mllmu.evaluation.faces.like_forgotten`; called when it is read.
    """

    samples: Mapping[str, Sample]
    values: Mapping[str, Mapping[str, Mapping[str, float | None]]]
    responses: Mapping[str, Mapping[str, Response]]
    average: Callable[[], Sequence[MetricResult]]
    people: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    originals: Mapping[str, str] = field(default_factory=dict)
    like_forgotten: Callable[[], Mapping[str, float]] = dict

    @classmethod
    def of(
        cls,
        samples: Sequence[Sample],
        scores: Mapping[str, Iterable[Score]],
        responses: Mapping[str, Iterable[Response]],
        results: Sequence[MetricResult],
        people: Iterable[Profile] = (),
        like_forgotten: Callable[[], Mapping[str, float]] = dict,
    ) -> ScoredRun:
        """The scored run of all models; refuses scores of unknown samples and second scores (DataError)."""
        known = samples_by_id(samples)
        return cls(
            samples={name: sample for name, sample in known.items() if sample.part == "report"},
            values={model: values_by_metric(of_model, known) for model, of_model in scores.items()},
            responses={model: {r.sample_id: r for r in of_model} for model, of_model in responses.items()},
            average=lambda: results,
            people={person.id: person.attributes for person in people},
            like_forgotten=cache(like_forgotten),
        )

    @cached_property
    def results(self) -> Sequence[MetricResult]:
        """The averaged metrics of all models."""
        return self.average()

    @property
    def models(self) -> list[str]:
        return list(self.values)

    @property
    def splits(self) -> list[Split]:
        """The sets that were asked: people's in the order of tables, then benchmarks."""
        asked = (split for (split, modality, _), samples in self._asked.items() if modality is None and samples)
        return ordered(asked)

    @property
    def modalities(self) -> list[Modality]:
        """The modalities that were asked."""
        return list(dict.fromkeys(modality for _, modality in self.cells()))

    def cells(self, splits: Sequence[Split] = ()) -> Iterator[tuple[Split, Modality]]:
        """Every set and modality that was asked; of the named sets alone if there are any."""
        wanted = [split for split in self.splits if not splits or split in splits]
        return ((split, modality) for split in wanted for modality in MODALITIES if self.asked(split, modality))

    def asked(self, split: Split, modality: Modality | None = None, task: str = "") -> list[Sample]:
        """The samples of a set, in their order; of one modality or task if that is named."""
        cell = (split, modality, task)
        if cell not in self._asked:
            of_split = self._asked.get((split, None, ""), [])
            self._asked[cell] = [s for s in of_split if modality in (None, s.modality) and task in ("", s.task)]
        return self._asked[cell]

    def judged(
        self, model: str, metric: str, *, split: Split, modality: Modality | None = None, task: str = ""
    ) -> dict[str, float]:
        """Judged values of a metric by sample id, in the order of the samples."""
        values, original = self.values[model].get(metric, {}), self.originals.get
        names = (sample.id for sample in self.asked(split, modality, task))
        return {name: value for name in names if (value := values.get(original(name, name))) is not None}

    def response(self, model: str, sample_id: str) -> Response | None:
        """What a model replied to a sample; None if it was not asked."""
        return self.responses[model].get(self.originals.get(sample_id, sample_id))

    def facts(self, model: str, metric: str, *, task: str = "") -> dict[Fact, dict[Modality, float]]:
        """Value of every fact by modality, where both modalities were asked and judged (mean of several questions)."""
        values: dict[Fact, dict[Modality, list[float]]] = {}
        of_metric = self.values[model].get(metric, {})
        for fact, modality, name in self._facts:
            if task in ("", fact[1]) and (value := of_metric.get(name)) is not None:
                values.setdefault(fact, {}).setdefault(modality, []).append(value)
        return {
            fact: {modality: mean(several) for modality, several in by.items()}
            for fact, by in values.items()
            if len(by) == len(MODALITIES)
        }

    def truth_ratios(self, splits: Sequence[Split] = ()) -> Iterator[tuple[str, Split, Modality, Floats, Floats]]:
        """Model, set, modality, and the truth ratios of generation of that model and of the retain_model.

        Raises:
            DataError: a model and the retain_model were not scored on the same samples.
        """
        models = self.models if RETAIN_MODEL in self.models else ()  # without it there is nothing to compare with
        for model, (split, modality) in product(models, self.cells(splits)):
            first, second = (self.values[name].get("truth_ratio", {}) for name in (model, RETAIN_MODEL))
            if odd := set(first) ^ set(second):
                raise DataError(
                    f"KS distance of truth_ratio: only one of the two models was scored on '{min(odd)}'. "
                    "Score both again."
                )
            ours, theirs = (
                [*self.judged(name, "truth_ratio", split=split, modality=modality, task="generation").values()]
                for name in (model, RETAIN_MODEL)
            )
            if ours and theirs:
                yield model, split, modality, ours, theirs

    def known_people(self, split: Split) -> set[str]:
        """The people asked about in a set whose attributes are known."""
        return {person_of(sample.profile_id) for sample in self.asked(split)} & self.people.keys()

    def lost(self, model: str, *, split: Split, modality: Modality) -> dict[str, float]:
        """By sample id [target right] - [model right], where both are judged."""
        ours, before = (self.judged(name, "right", split=split, modality=modality) for name in (model, TARGET))
        return {name: before[name] - value for name, value in ours.items() if name in before}

    @cached_property
    def _facts(self) -> list[tuple[Fact, Modality, str]]:
        """Fact, modality and name in ``values`` of every sample; built once, for a bootstrap asks for them often."""
        return [
            ((s.split, s.task, *fact_of(s)), s.modality, self.originals.get(s.id, s.id)) for s in self.samples.values()
        ]

    @cached_property
    def _asked(self) -> dict[tuple[Split, Modality | None, str], list[Sample]]:
        found: dict[tuple[Split, Modality | None, str], list[Sample]] = {}
        for sample in self.samples.values():
            found.setdefault((sample.split, None, ""), []).append(sample)
        return found


def person_of(profile_id: str) -> str:
    """The person behind the id in a sample, also where a bootstrap has drawn them more than once."""
    return profile_id.partition(COPY)[0]


def mean(values: Sequence[float]) -> float:
    """Plain mean of at least one value."""
    return sum(values) / len(values)


class Summariser(Plugin):
    """Base of every summary.

    A subclass sets ``needs``, the metrics whose scores it reads, and ``range``, the lowest and highest possible value,
    if there are such; where its numbers differ in that, it defines ``limits``.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    range: ClassVar[tuple[float, float]] = (-math.inf, math.inf)

    @abstractmethod
    def summarise(self, run: ScoredRun) -> list[Summary]:
        """The rows of all models; what cannot be computed is a row with value None and a note."""

    def limits(self, detail: str) -> tuple[float, float]:
        """Lowest and highest possible value of the numbers of a detail."""
        return self.range

    def no_interval(self, detail: str) -> str:
        """Why the numbers of a detail have no interval; empty if they have one.

        An interval comes from a bootstrap over people, see :mod:`mllmu.evaluation.bootstrap`. That is wrong for what is
        no estimate, like a p-value, and for counts of different things, which fall when a person is drawn twice.
        """
        return ""

    def behind(self, run: ScoredRun) -> Mapping[RowKey, Collection[str]]:
        """Ids of the samples that a row rests on, for rows that do not rest on all people of their sets.

        An interval counts the people behind them: a mean over three of forty people is known as well as one of three.
        """
        return {}

    def tables(self, rows: Sequence[Summary]) -> Iterable[TableSpec]:
        """Tables of a report; ``rows`` of all summaries, for columns that depend on what was found.

        A report leaves out columns without numbers. Rows in no table are still in its ``summaries.csv``.
        """
        return ()

    def row(self, model: str, value: float | None, **more: object) -> Summary:
        """One row of this summary."""
        return Summary(model=model, summary=self.name, value=value, **more)

    def rows(self, model: str, values: Mapping[str, float | None], **more: object) -> list[Summary]:
        """Rows of one model that differ by their detail, in the order of ``values``."""
        return [self.row(model, value, detail=detail, **more) for detail, value in values.items()]

    def column(self, head: str, **more: object) -> ColumnSpec:
        """One column of rows of this summary."""
        return ColumnSpec(summary=self.name, head=head, **more)

    def overview(self, order: int, *columns: ColumnSpec) -> list[TableSpec]:
        """Columns in the first tables of the summaries; ``order`` from 10 to 19 says where in them."""
        return [TableSpec(title=OVERVIEW, columns=columns, order=order, by_modality=True)]


OVERVIEW = "Utility, forgetting, privacy"


def build_all(names: Iterable[str]) -> list[Summariser]:
    """The summaries of a recipe; ``all`` stands for every one there is."""
    return [plugins.build("summaries", name, {}) for name in plugins.expanded("summaries", names)]
