"""Overlap in word pairs."""

from mllmu.evaluation.metrics import OverlapMetric
from mllmu.evaluation.rouge import rouge_n


class Rouge2(OverlapMetric):
    """F1 of the neighbouring word pairs a reply shares with the true sentence, stemmed.

    2PR / (P + R) over counted stem pairs; 0 if a side has fewer than two words.
    """

    source = "https://aclanthology.org/W04-1013"
    label = "ROUGE-2"

    def overlap(self, truth: str, reply: str) -> float:
        return rouge_n(truth, reply, n=2).f1
