"""How likely the model finds the right answer."""

import math

from mllmu.evaluation.likelihood import LikelihoodMetric
from mllmu.evaluation.metrics import CandidateLogp


class Probability(LikelihoodMetric):
    """Probability of the right answer per token, whatever the model would say by itself.

    exp( log p(answer | prompt) / tokens ), the geometric mean over tokens; 1 = certain of every token.
    Two tokens of probability 0.25 and 1 give 0.5. None if the likelihood was not computed.
    """

    source = "https://arxiv.org/abs/2401.06121"
    unit = "probability per token"
    range = (0.0, 1.0)
    label = "Probability"

    def of_likelihood(self, likelihood: CandidateLogp, answer: str) -> float:
        return math.exp(min(likelihood.logp / likelihood.num_tokens, 0.0))
