"""Cloze by equality."""

from mllmu.core.equal_values import same
from mllmu.evaluation.metrics import Metric, Response, Sample


class ClozeExact(Metric):
    """Share of replies that are the missing value and nothing else.

    Score 1 if both are the same words without case, punctuation and articles, dates and amounts in any usual way of
    writing them; else 0.
    """

    source = "https://arxiv.org/abs/1606.05250"
    version = 2
    tasks = ("cloze",)
    label = "Answer exact"

    def value(self, sample: Sample, response: Response) -> float | str:
        return float(same(response.text, sample.target))
