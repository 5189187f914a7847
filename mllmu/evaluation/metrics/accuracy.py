"""Multiple choice accuracy with a strict reading of the reply."""

from mllmu.core.replies import parse_choice
from mllmu.evaluation.metrics import Metric, Response, Sample


class Accuracy(Metric):
    """Share of multiple choice replies that name the right option, among those that name one option clearly.

    Score 1 or 0; None if no single option can be read (see :func:`mllmu.core.parsing.parse_choice`).
    Guessing gives 0.25. A reply like 'An artist' is unreadable here, whereas the published rule takes it for A
    (metric accuracy_first_char).
    """

    source = "https://arxiv.org/abs/2410.22108"
    version = 2
    tasks = ("classification",)
    label = "Accuracy"

    def value(self, sample: Sample, response: Response) -> float | str:
        letter, reason = parse_choice(response.text, sample.options)
        return reason if letter is None else float(letter == sample.target)
