"""Membership by the least likely tokens, each against all other words there."""

from __future__ import annotations

import math

from mllmu.core.records import Response, Sample
from mllmu.evaluation.metrics import NO_TOKENS, Metric
from mllmu.evaluation.ranking import lowest_mean


class MemberMinKPlusPlus(Metric):
    """Mean of the 20 % lowest standardised log-probabilities of answer tokens (min-k++).

    z_t = (log p(y_t) - m_t) / s_t,  m_t and s_t mean and standard deviation of log p(v) over the vocabulary, v ~ p
    """

    source = "https://arxiv.org/abs/2404.02936"
    tasks = ("generation", "cloze")
    unit = "standard deviations"
    range = (-math.inf, math.inf)
    label = "Membership: min-k++"
    measures = ("tokens",)

    def value(self, sample: Sample, response: Response) -> float | str:
        return lowest_mean(response.tokens.z) if response.tokens else NO_TOKENS


PLUGIN = MemberMinKPlusPlus
