"""Overlap in word pairs."""

from __future__ import annotations

from mllmu.core.records import Response, Sample
from mllmu.evaluation.metrics import Metric
from mllmu.evaluation.rouge import rouge_n


class Rouge2(Metric):
    """F1 of the neighbouring word pairs a reply shares with the true sentence, stemmed.

    2PR / (P + R) over counted stem pairs; 0 if a side has fewer than two words.
    """

    source = "https://aclanthology.org/W04-1013"
    tasks = ("generation",)
    label = "ROUGE-2"
    unit = "overlap"

    def value(self, sample: Sample, response: Response) -> float | str:
        return rouge_n(sample.target, response.text, n=2).f1


PLUGIN = Rouge2
