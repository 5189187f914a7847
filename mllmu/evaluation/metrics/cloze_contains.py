"""Cloze by containment, the published rule."""

from __future__ import annotations

from typing import ClassVar

from mllmu.core.parsing import contains
from mllmu.core.records import Response, Sample, Score, TaskName
from mllmu.evaluation.metrics import Metric


class ClozeContains(Metric):
    """Share of replies that contain the missing value, ignoring case.

    Score 1 if lower(value) is a substring of lower(reply), else 0. Generous: a ramble that mentions the value counts.
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2410.22108"
    tasks: ClassVar[tuple[TaskName, ...]] = ("cloze",)
    label: ClassVar[str] = "Cloze"

    def score(self, sample: Sample, response: Response) -> Score:
        return self.judged(sample, float(contains(response.text, sample.target)))


PLUGIN = ClozeContains
