"""Multiple choice accuracy by likelihood, without reading any text."""

from mllmu.evaluation.metrics import Metric, Response, Sample, likeliest_is_right


class AccuracyLogp(Metric):
    """Share of multiple choice questions whose right letter is the likeliest of the option letters.

    Score 1 if argmax over letters of log p(letter | prompt), the end of the reply left out, is the right one, else 0;
    None if a letter's likelihood
    is missing, or if several letters share the highest one (a collapsed model would otherwise always 'choose' A).
    """

    source = "https://github.com/EleutherAI/lm-evaluation-harness"
    version = 2
    tasks = ("classification",)
    reads_likelihood = True
    label = "Accuracy (likelihood)"

    def value(self, sample: Sample, response: Response) -> float | str:
        return likeliest_is_right(sample, {letter: found.logp for letter, found in response.candidates.items()})
