"""Overlap in single words."""

from mllmu.evaluation.rouge import OverlapMetric, rouge_n


class Rouge1(OverlapMetric):
    """F1 of the words a reply shares with the true sentence, stemmed.

    2PR / (P + R) over counted stems; 1 = the same words in any order, 0 = none in common or an empty reply.
    """

    source = "https://aclanthology.org/W04-1013"
    label = "ROUGE-1"

    def overlap(self, truth: str, reply: str, *, published: bool) -> float:
        return rouge_n(truth, reply, n=1, published=published).f1
