"""Overlap in word pairs."""

from __future__ import annotations

from typing import ClassVar

from mllmu.core.records import Response, Sample, Score, TaskName
from mllmu.evaluation.metrics import Metric
from mllmu.evaluation.rouge import rouge_n


class Rouge2(Metric):
    """F1 of the neighbouring word pairs a reply shares with the true sentence, stemmed.

    2PR / (P + R) over counted stem pairs; 0 if a side has fewer than two words.
    """

    source: ClassVar[str] = "https://aclanthology.org/W04-1013"
    tasks: ClassVar[tuple[TaskName, ...]] = ("generation",)
    label: ClassVar[str] = "ROUGE-2"

    def score(self, sample: Sample, response: Response) -> Score:
        return self.judged(sample, rouge_n(sample.target, response.text, n=2).f1)


PLUGIN = Rouge2
