"""Cloze by equality."""

from mllmu.core.equal_values import same
from mllmu.evaluation.metrics import Metric, Response, Sample
from mllmu.evaluation.outcome import CUT, is_cut_within


class ClozeExact(Metric):
    """Share of replies that are the missing value and nothing else.

    Score 1 if both are the same words without case, punctuation and articles, dates and amounts in any usual way of
    writing them; else 0. A reply that was cut at its limit within the value is not judged.
    """

    source = "https://arxiv.org/abs/1606.05250"
    version = 2
    tasks = ("cloze",)
    label = "Answer exact"

    def value(self, sample: Sample, response: Response) -> float | str:
        is_same = same(response.text, sample.target)
        return CUT if not is_same and is_cut_within(sample, response) else float(is_same)
