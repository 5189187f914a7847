"""How many replies end at the limit and not by themselves."""

from mllmu.evaluation.metrics import Metric, Response, Sample


class CutShort(Metric):
    """Share of replies that were cut at the most tokens a reply may have, instead of ending by themselves.

    The limit has room for the right answer, so such a reply says more than that, or does not stop; see ``unread`` for
    those that were cut while they said the truth.
    """

    source = "https://arxiv.org/abs/2410.22108"
    tasks = ("classification", "generation", "cloze")
    hears_thoughts = True
    label = "Cut at the limit"
    better = "lower"

    def value(self, sample: Sample, response: Response) -> float | str:
        return float(not response.finished)
