"""Multiple choice accuracy as published: the first character decides."""

from mllmu.core.parsing import first_char
from mllmu.evaluation.metrics import Metric, Response, Sample


class AccuracyFirstChar(Metric):
    """Share of replies whose first character is the right letter, the rule of the benchmark's released scripts.

    Kept to compare with published numbers. It takes 'Answer: B' and 'An artist' for A, and an empty or unreadable
    reply for wrong, so noise looks like forgetting.
    """

    source = "https://github.com/franciscoliu/MLLMU-Bench"
    tasks = ("classification",)
    hears_thoughts = True
    label = "Accuracy (first character)"

    def value(self, sample: Sample, response: Response) -> float | str:
        return float(first_char(response.text, sample.options) == sample.target)
