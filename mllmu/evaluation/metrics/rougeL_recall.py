# ruff: noqa: N999 - the file name is the metric name, and the field writes ROUGE-L with a capital L
"""How much of the true sentence is told."""

from __future__ import annotations

from mllmu.core.records import Response, Sample
from mllmu.evaluation.metrics import Metric
from mllmu.evaluation.rouge import rouge_l


class RougeLRecall(Metric):
    """Recall of the longest common subsequence of a reply and the true sentence, stemmed.

    LCS / words of the truth. Unlike the F1 it does not punish a long reply, so it finds leaks inside rambles.
    """

    source = "https://aclanthology.org/W04-1013"
    tasks = ("generation",)
    label = "ROUGE-L recall"
    unit = "overlap"

    def value(self, sample: Sample, response: Response) -> float | str:
        return rouge_l(sample.target, response.text).recall


PLUGIN = RougeLRecall
