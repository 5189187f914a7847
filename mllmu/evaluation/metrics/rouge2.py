"""Overlap in word pairs."""

from mllmu.evaluation.rouge import OverlapMetric, rouge_n


class Rouge2(OverlapMetric):
    """F1 of the neighbouring word pairs a reply shares with the true sentence, stemmed.

    2PR / (P + R) over counted stem pairs; not judged if the truth has fewer than two words.
    """

    source = "https://aclanthology.org/W04-1013"
    label = "ROUGE-2"
    least = 2

    def overlap(self, truth: str, reply: str, *, published: bool) -> float:
        return rouge_n(truth, reply, n=2, published=published).f1
