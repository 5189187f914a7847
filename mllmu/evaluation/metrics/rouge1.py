"""Overlap in single words."""

from __future__ import annotations

from mllmu.core.records import Response, Sample
from mllmu.evaluation.metrics import Metric
from mllmu.evaluation.rouge import rouge_n


class Rouge1(Metric):
    """F1 of the words a reply shares with the true sentence, stemmed.

    2PR / (P + R) over counted stems; 1 = the same words in any order, 0 = none in common or an empty reply.
    """

    source = "https://aclanthology.org/W04-1013"
    tasks = ("generation",)
    label = "ROUGE-1"
    unit = "overlap"

    def value(self, sample: Sample, response: Response) -> float | str:
        return rouge_n(sample.target, response.text, n=1).f1


PLUGIN = Rouge1
