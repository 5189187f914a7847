"""How likely the model finds the right answer."""

from __future__ import annotations

import math

from mllmu.core.records import Response, Sample
from mllmu.evaluation.metrics import NO_LIKELIHOOD, Metric, mean_logp


class Probability(Metric):
    """Probability of the right answer per token, whatever the model would say by itself.

    exp( log p(answer | prompt) / tokens ), the geometric mean over tokens; 1 = certain of every token.
    Two tokens of probability 0.25 and 1 give 0.5. None if the likelihood was not computed.
    """

    source = "https://arxiv.org/abs/2401.06121"
    tasks = ("generation", "cloze")
    unit = "probability per token"
    label = "Probability"

    def value(self, sample: Sample, response: Response) -> float | str:
        logp = mean_logp(response, "target")
        return NO_LIKELIHOOD if logp is None else math.exp(min(logp, 0.0))


PLUGIN = Probability
