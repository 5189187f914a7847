"""Cloze by equality."""

from mllmu.core.parsing import normalise
from mllmu.evaluation.metrics import Metric, Response, Sample


class ClozeExact(Metric):
    """Share of replies that are the missing value and nothing else.

    Score 1 if both are equal without case, punctuation, articles and digit grouping, else 0.
    """

    source = "https://arxiv.org/abs/1606.05250"
    tasks = ("cloze",)
    label = "Answer exact"

    def value(self, sample: Sample, response: Response) -> float | str:
        return float(normalise(response.text) == normalise(sample.target))
