# ruff: noqa: N999 - the file name is the metric name, and the field writes ROUGE-L with a capital L
"""Overlap in word order."""

from mllmu.evaluation.rouge import OverlapMetric, rouge_l


class RougeL(OverlapMetric):
    """F1 of the longest common subsequence of a reply and the true sentence, stemmed.

    P = LCS / words of the reply, R = LCS / words of the truth, 2PR / (P + R). Half of it is often earned by the
    sentence's frame ('This person works as a ...'), so compare with the retain_model, not with 0.
    """

    source = "https://aclanthology.org/W04-1013"
    label = "ROUGE-L"

    def overlap(self, truth: str, reply: str, *, published: bool) -> float:
        return rouge_l(truth, reply, published=published).f1
