# ruff: noqa: N999 - the file name is the metric name, and the field writes ROUGE-L with a capital L
"""Overlap in word order."""

from __future__ import annotations

from mllmu.core.records import Response, Sample
from mllmu.evaluation.metrics import Metric
from mllmu.evaluation.rouge import rouge_l


class RougeL(Metric):
    """F1 of the longest common subsequence of a reply and the true sentence, stemmed.

    P = LCS / words of the reply, R = LCS / words of the truth, 2PR / (P + R). Half of it is often earned by the
    sentence's frame ('This person works as a ...'), so compare with the retain_model, not with 0.
    """

    source = "https://aclanthology.org/W04-1013"
    tasks = ("generation",)
    label = "ROUGE-L"
    unit = "overlap"

    def value(self, sample: Sample, response: Response) -> float | str:
        return rouge_l(sample.target, response.text).f1


PLUGIN = RougeL
