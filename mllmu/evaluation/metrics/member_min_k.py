"""Membership by the least likely tokens."""

import math

from mllmu.evaluation.likelihood import TokenMetric
from mllmu.evaluation.metrics import TokenStats
from mllmu.evaluation.stats import lowest_mean


class MemberMinK(TokenMetric):
    """Mean log-probability of the 20 % least likely answer tokens (at least one), in nats (min-k).

    A text that was seen has few surprises. Tokens -1, -2, -3, -4, -5: the lowest one, -5.
    """

    source = "https://arxiv.org/abs/2310.16789"
    unit = "nats"
    range = (-math.inf, 0.0)
    label = "Membership: min-k"

    def of_tokens(self, tokens: TokenStats) -> float:
        return lowest_mean(tokens.logps)
