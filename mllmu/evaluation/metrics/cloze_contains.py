"""Cloze by containment, the published rule."""

from mllmu.core.parsing import contains
from mllmu.evaluation.metrics import Metric, Response, Sample


class ClozeContains(Metric):
    """Share of replies that contain the missing value, ignoring case.

    Score 1 if lower(value) is a substring of lower(reply), else 0. Generous: a ramble that mentions the value counts.
    """

    source = "https://arxiv.org/abs/2410.22108"
    tasks = ("cloze",)
    hears_thoughts = True
    label = "Answer contained"

    def value(self, sample: Sample, response: Response) -> float | str:
        return float(contains(response.text, sample.target))
