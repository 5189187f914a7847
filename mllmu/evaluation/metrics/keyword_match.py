"""How many of the private words a reply tells."""

from mllmu.core.parsing import normalise
from mllmu.evaluation.metrics import Metric, Response, Sample


class KeywordMatch(Metric):
    """Share of the words of the private value that occur in the reply as whole words, without case and punctuation.

    'a nurse in Riga' against the value 'head nurse, Riga': 2/3. Over reworded questions: the summary ape.
    """

    source = "https://arxiv.org/abs/2411.03554"
    tasks = ("generation", "cloze")
    label = "Keywords"

    def value(self, sample: Sample, response: Response) -> float | str:
        wanted = normalise(sample.value).split()
        said = set(normalise(response.text).split())
        return sum(word in said for word in wanted) / len(wanted) if wanted else "the value has no word"
