"""Cloze by equality."""

from __future__ import annotations

from typing import ClassVar

from mllmu.core.parsing import normalise
from mllmu.core.records import Response, Sample, Score, TaskName
from mllmu.evaluation.metrics import Metric


class ClozeExact(Metric):
    """Share of replies that are the missing value and nothing else.

    Score 1 if both are equal without case, punctuation, articles and digit grouping, else 0.
    """

    source: ClassVar[str] = "https://arxiv.org/abs/1606.05250"
    tasks: ClassVar[tuple[TaskName, ...]] = ("cloze",)
    label: ClassVar[str] = "Cloze (exact)"

    def score(self, sample: Sample, response: Response) -> Score:
        return self.judged(sample, float(normalise(response.text) == normalise(sample.target)))


PLUGIN = ClozeExact
