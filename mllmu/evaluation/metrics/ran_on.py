"""How many replies go on with a conversation that nobody has."""

from mllmu.core.replies import runs_on
from mllmu.evaluation.metrics import Metric, Response, Sample


class RanOn(Metric):
    """Share of replies that run on into an invented next turn: 'B USER: Which city? ASSISTANT: C'.

    What follows the first mark of a turn (the names and control tokens of chat templates) counts in no other metric,
    except after prompts that are put as published.
    """

    source = "https://github.com/locuslab/open-unlearning"
    tasks = ("classification", "generation", "cloze")
    hears_thoughts = True
    label = "Ran on"
    better = "lower"

    def value(self, sample: Sample, response: Response) -> float | str:
        return float(runs_on(response.text))
