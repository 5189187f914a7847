"""How likely the right answer is among the right and the wrong ones."""

import math

from mllmu.evaluation.likelihood import NO_COMPARISON, mean_logp
from mllmu.evaluation.metrics import Metric, Response, Sample


class NormalisedProbability(Metric):
    """Probability of the right answer among all candidates, each taken per token.

    P(target) / (P(target) + sum over wrong answers P(w)),  P = exp( log p / tokens )

    0.5 for one wrong answer that is as likely as the right one. None without a wrong answer or a likelihood.
    """

    source = "https://arxiv.org/abs/2401.06121"
    tasks = ("generation", "cloze")
    reads_likelihood = True
    label = "Normalised probability"

    def value(self, sample: Sample, response: Response) -> float | str:
        keys = ["target", *(key for key in sample.candidates if key.startswith("wrong_"))]
        logps = [logp for key in keys if (logp := mean_logp(response, key)) is not None]
        if len(keys) < 2 or len(logps) < len(keys):
            return NO_COMPARISON
        likeliest = max(logps)
        shares = [math.exp(logp - likeliest) for logp in logps]
        return shares[0] / math.fsum(shares)
