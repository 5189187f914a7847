"""Membership by the less likely tokens, with the share of MUSE."""

import math

from mllmu.evaluation.likelihood import TokenMetric
from mllmu.evaluation.metrics import TokenStats
from mllmu.evaluation.stats import lowest_mean


class MemberMinKForty(TokenMetric):
    """Mean log-probability of the 40 % least likely answer tokens (at least one), in nats (min-k), as in privleak.

    Tokens -1, -2, -3, -4, -5: the two lowest, -4.5.
    """

    source = "https://arxiv.org/abs/2407.06460"
    unit = "nats"
    range = (-math.inf, 0.0)
    label = "Membership: min-40 %"

    def of_tokens(self, tokens: TokenStats) -> float:
        return lowest_mean(tokens.logps, 0.4)
