"""Summaries, one file each: numbers about whole models that no single reply gives.

A metric judges one reply. A summary sees the scores and replies of all models at once, so it can pair the two questions
about one fact, rank forgotten against unknown people, or compare a model with the retain_model.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from mllmu import plugins
from mllmu.errors import RecipeError
from mllmu.plugins import Plugin
from mllmu.records import MODALITIES, SPLITS, MetricResult, Modality, Response, Sample, Score, Split, Summary

Fact = tuple[Split, str, str, str]
"""Split, task, person and attribute: what is asked with a picture and by name alike."""


@dataclass(frozen=True, kw_only=True)
class Everything:
    """What summaries are made from.

    Attributes:
        samples: those that count (part ``report``), by id.
        values: model -> metric -> sample id -> value; None where a reply could not be judged.
        replies: model -> sample id -> reply.
        results: the averaged metrics of all models.
        target, retain_model: names of the two models that others are compared with.
    """

    samples: Mapping[str, Sample]
    values: Mapping[str, Mapping[str, Mapping[str, float | None]]]
    replies: Mapping[str, Mapping[str, Response]]
    results: Sequence[MetricResult]
    target: str = "target"
    retain_model: str = "retain_model"

    @property
    def models(self) -> list[str]:
        return list(self.values)

    def judged(
        self, model: str, metric: str, *, split: Split, modality: Modality | None = None, task: str = ""
    ) -> dict[str, float]:
        """Judged values of a metric by sample id, in the order of the samples."""
        values = self.values[model].get(metric, {})
        return {
            sample.id: value
            for sample in self.samples.values()
            if sample.split == split
            and modality in (None, sample.modality)
            and task in ("", sample.task)
            and (value := values.get(sample.id)) is not None
        }

    def places(self) -> Iterator[tuple[Split, Modality]]:
        """Every split and modality that was asked."""
        asked = {(sample.split, sample.modality) for sample in self.samples.values()}
        return ((split, modality) for split in SPLITS for modality in MODALITIES if (split, modality) in asked)

    def facts(self, model: str, metric: str, *, task: str = "") -> dict[Fact, dict[Modality, float]]:
        """Value of every fact by modality, where both modalities were asked and judged (mean of several questions)."""
        found: dict[Fact, dict[Modality, list[float]]] = {}
        values = self.values[model].get(metric, {})
        for sample in self.samples.values():
            value = values.get(sample.id)
            if value is not None and task in ("", sample.task):
                fact = (sample.split, sample.task, sample.profile_id, sample.attribute)
                found.setdefault(fact, {}).setdefault(sample.modality, []).append(value)
        return {
            fact: {modality: mean(several) for modality, several in by.items()}
            for fact, by in found.items()
            if len(by) == len(MODALITIES)
        }


class Summariser(Plugin):
    """Base of every summary. A subclass sets ``needs``, the metrics whose scores it reads."""

    needs: ClassVar[tuple[str, ...]] = ()

    @property
    def name(self) -> str:
        """The plug-in's name, which is the name of its file."""
        return type(self).__module__.rpartition(".")[2]

    @abstractmethod
    def summarise(self, everything: Everything) -> list[Summary]:
        """The rows of all models; what cannot be computed is a row with value None and a note."""

    def row(self, model: str, value: float | None, **more: object) -> Summary:
        """One row of this summary."""
        return Summary.model_validate({"model": model, "summary": self.name, "value": value, **more})


def mean(values: Sequence[float]) -> float:
    """Plain mean of at least one value."""
    return sum(values) / len(values)


def build_all(names: Iterable[str]) -> list[Summariser]:
    """The summaries of a recipe; ``all`` stands for every one there is."""
    wanted = [each for name in names for each in (plugins.names("summaries") if name == "all" else [name])]
    return [plugins.build("summaries", name, {}) for name in dict.fromkeys(wanted)]


def summarise(
    summaries: Sequence[Summariser],
    samples: Sequence[Sample],
    scores: Mapping[str, Sequence[Score]],
    replies: Mapping[str, Sequence[Response]],
    results: Sequence[MetricResult],
) -> list[Summary]:
    """Run summaries over the scores and replies of all models.

    Raises:
        RecipeError: a metric that a summary reads was not scored.
    """
    counted = {sample.id: sample for sample in samples if sample.part == "report"}
    values: dict[str, dict[str, dict[str, float | None]]] = {}
    for model, of_model in scores.items():
        table = values.setdefault(model, {})
        for score in of_model:
            table.setdefault(score.metric, {})[score.sample_id] = score.value
    scored = {metric for table in values.values() for metric in table}
    for summary in summaries:
        if missing := sorted(set(summary.needs) - scored):
            raise RecipeError(
                f"evaluate.summaries: {summary.name} reads the metric {missing[0]}, which was not scored. "
                "Add its task to evaluate.tasks, or leave the summary out."
            )
    everything = Everything(
        samples=counted,
        values=values,
        replies={model: {reply.sample_id: reply for reply in of_model} for model, of_model in replies.items()},
        results=results,
    )
    return [row for summary in summaries for row in summary.summarise(everything)]
