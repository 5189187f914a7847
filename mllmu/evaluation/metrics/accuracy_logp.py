"""Multiple choice accuracy by likelihood, without reading any text."""

from mllmu.evaluation.metrics import Metric, Response, Sample


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
        logps = {letter: found.logp for letter, found in response.candidates.items() if letter in sample.options}
        if missing := sorted(set(sample.options) - set(logps)):
            return f"no likelihood for option {', '.join(missing)}"
        best = [letter for letter, logp in logps.items() if logp == max(logps.values())]
        if len(best) > 1:
            return f"options {', '.join(sorted(best))} are equally likely"
        return float(best[0] == sample.target)
