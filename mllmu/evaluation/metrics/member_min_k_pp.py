"""Membership by the least likely tokens, each against all other words there."""

import math

from mllmu.evaluation.likelihood import TokenMetric
from mllmu.evaluation.metrics import TokenStats
from mllmu.evaluation.stats import lowest_mean


class MemberMinKPlusPlus(TokenMetric):
    """Mean of the 20 % lowest standardised log-probabilities of answer tokens (min-k++).

    z_t = (log p(y_t) - m_t) / s_t,  m_t and s_t mean and standard deviation of log p(v) over the vocabulary, v ~ p
    """

    source = "https://arxiv.org/abs/2404.02936"
    unit = "standard deviations"
    range = (-math.inf, math.inf)
    label = "Membership: min-k++"

    def of_tokens(self, tokens: TokenStats) -> float:
        return lowest_mean(tokens.z)
