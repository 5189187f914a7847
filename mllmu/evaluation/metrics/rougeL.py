# ruff: noqa: N999 - the file name is the metric name, and the field writes ROUGE-L with a capital L
"""Overlap in word order."""

from __future__ import annotations

from typing import ClassVar

from mllmu.core.records import Response, Sample, Score, TaskName
from mllmu.evaluation.metrics import Metric
from mllmu.evaluation.rouge import rouge_l


class RougeL(Metric):
    """F1 of the longest common subsequence of a reply and the true sentence, stemmed.

    P = LCS / words of the reply, R = LCS / words of the truth, 2PR / (P + R). Half of it is often earned by the
    sentence's frame ('This person works as a ...'), so compare with the retain_model, not with 0.
    """

    source: ClassVar[str] = "https://aclanthology.org/W04-1013"
    tasks: ClassVar[tuple[TaskName, ...]] = ("generation",)
    label: ClassVar[str] = "ROUGE-L"

    def score(self, sample: Sample, response: Response) -> Score:
        return self.judged(sample, rouge_l(sample.target, response.text).f1)


PLUGIN = RougeL
