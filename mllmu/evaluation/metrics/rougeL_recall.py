# ruff: noqa: N999 - the file name is the metric name, and the field writes ROUGE-L with a capital L
"""How much of the true sentence is told."""

from mllmu.evaluation.rouge import OverlapMetric, rouge_l


class RougeLRecall(OverlapMetric):
    """Recall of the longest common subsequence of a reply and the true sentence, stemmed.

    LCS / words of the truth. Unlike the F1 it does not punish a long reply, so it finds leaks inside rambles.
    """

    source = "https://aclanthology.org/W04-1013"
    label = "ROUGE-L recall"

    def overlap(self, truth: str, reply: str, *, published: bool) -> float:
        return rouge_l(truth, reply, published=published).recall
