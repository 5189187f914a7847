"""What numbers about whole models are made from: the scores and replies of all models at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from mllmu.core.names import RETAIN_MODEL, TARGET
from mllmu.core.records import MODALITIES, PEOPLE_SPLITS, MetricResult, Modality, Response, Sample, Split, ordered

Fact = tuple[Split, str, str, str]
"""Split, task, person and attribute: what is asked with an image and by name alike."""


@dataclass(frozen=True, kw_only=True)
class ScoredRun:
    """What summaries are made from.

    Attributes:
        samples: those that count (part ``report``), by id. ``values`` and ``responses`` may hold more.
        values: model -> metric -> sample id -> value; None where a reply could not be judged.
        responses: model -> sample id -> response.
        results: the averaged metrics of all models.
        target, retain_model: names of the two models that others are compared with.
    """

    samples: Mapping[str, Sample]
    values: Mapping[str, Mapping[str, Mapping[str, float | None]]]
    responses: Mapping[str, Mapping[str, Response]]
    results: Sequence[MetricResult]
    target: str = TARGET
    retain_model: str = RETAIN_MODEL

    @property
    def models(self) -> list[str]:
        return list(self.values)

    def asked(self, split: Split, modality: Modality | None = None, task: str = "") -> list[Sample]:
        """The samples of a set, in their order; of one modality or task if that is named."""
        wanted = (split, modality, task)
        if wanted not in self._asked:
            of_split = self._asked.get((split, None, ""), [])
            self._asked[wanted] = [s for s in of_split if modality in (None, s.modality) and task in ("", s.task)]
        return self._asked[wanted]

    def judged(
        self, model: str, metric: str, *, split: Split, modality: Modality | None = None, task: str = ""
    ) -> dict[str, float]:
        """Judged values of a metric by sample id, in the order of the samples."""
        values = self.values[model].get(metric, {})
        return {
            sample.id: value
            for sample in self.asked(split, modality, task)
            if (value := values.get(sample.id)) is not None
        }

    @property
    def splits(self) -> list[Split]:
        """The sets that were asked: people's in the order of tables, then benchmarks."""
        asked = (split for (split, modality, _), samples in self._asked.items() if modality is None and samples)
        return ordered(asked, PEOPLE_SPLITS)

    @property
    def modalities(self) -> list[Modality]:
        """The modalities that were asked."""
        return list(dict.fromkeys(modality for _, modality in self.cells()))

    def cells(self, splits: Sequence[Split] = ()) -> Iterator[tuple[Split, Modality]]:
        """Every set and modality that was asked; of the named sets alone if there are any."""
        wanted = [split for split in self.splits if not splits or split in splits]
        return ((split, modality) for split in wanted for modality in MODALITIES if self.asked(split, modality))

    def facts(self, model: str, metric: str, *, task: str = "") -> dict[Fact, dict[Modality, float]]:
        """Value of every fact by modality, where both modalities were asked and judged (mean of several questions)."""
        found: dict[int, dict[Modality, list[float]]] = {}
        values = self.values[model].get(metric, {})
        facts, asked = self._asked_twice(task)
        for sample_id, place, modality in asked:
            value = values.get(sample_id)
            if value is not None:
                found.setdefault(place, {}).setdefault(modality, []).append(value)
        return {
            facts[place]: {modality: mean(several) for modality, several in by.items()}
            for place, by in found.items()
            if len(by) == len(MODALITIES)
        }

    @cached_property
    def _asked(self) -> dict[tuple[Split, Modality | None, str], list[Sample]]:
        found: dict[tuple[Split, Modality | None, str], list[Sample]] = {}
        for sample in self.samples.values():
            found.setdefault((sample.split, None, ""), []).append(sample)
        return found

    def _asked_twice(self, task: str) -> tuple[list[Fact], list[tuple[str, int, Modality]]]:
        """The facts that were asked in both modalities, and every sample about one, with the fact's place."""
        if task not in self._facts:
            ways: dict[Fact, set[Modality]] = {}
            every = [s for s in self.samples.values() if task in ("", s.task)]
            named = [(s.id, (s.split, s.task, s.profile_id, s.attribute), s.modality) for s in every]
            for _, fact, modality in named:
                ways.setdefault(fact, set()).add(modality)
            facts = [fact for fact, of_fact in ways.items() if len(of_fact) == len(MODALITIES)]
            place = {fact: n for n, fact in enumerate(facts)}
            self._facts[task] = facts, [(id_, place[fact], way) for id_, fact, way in named if fact in place]
        return self._facts[task]

    @cached_property
    def _facts(self) -> dict[str, tuple[list[Fact], list[tuple[str, int, Modality]]]]:
        return {}


def mean(values: Sequence[float]) -> float:
    """Plain mean of at least one value."""
    return sum(values) / len(values)
