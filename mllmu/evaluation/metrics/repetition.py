"""How much a reply repeats itself."""

from mllmu.evaluation.metrics import EMPTY, Metric, Response, Sample
from mllmu.evaluation.outcome import distinct_trigrams


class Repetition(Metric):
    """Share of a reply's word trigrams (of characters in short replies) that it has said before: 1 - distinct share.

    0 = nothing twice; 'a b a b a b' gives 0.5. A collapsed model is near 1.
    """

    source = "https://arxiv.org/abs/1904.09751"
    tasks = ("generation",)
    label = "Repetition"
    better = "lower"

    def value(self, sample: Sample, response: Response) -> float | str:
        return 1 - distinct_trigrams(response.text) if response.text.strip() else EMPTY
