"""Multiple choice accuracy with a strict reading of the reply."""

from mllmu.core.replies import is_refusal, parse_choice
from mllmu.evaluation.metrics import Metric, Response, Sample


class Accuracy(Metric):
    """Share of multiple choice replies that name the right option, among those that name one clearly or decline.

    Score 1 or 0; a reply that declines to answer names none: 0. None if no single option can be read otherwise (see
    :func:`mllmu.core.replies.parse_choice`): headline scores count it against the model.
    Guessing gives 0.25. A reply like 'An artist' is unreadable here, whereas the published rule takes it for A
    (metric accuracy_first_char).
    """

    source = "https://arxiv.org/abs/2410.22108"
    version = 3
    tasks = ("classification",)
    label = "Accuracy"

    def value(self, sample: Sample, response: Response) -> float | str:
        letter, reason = parse_choice(response.text, sample.options)
        if letter is None and not is_refusal(response.text):
            return reason
        return float(letter == sample.target)
