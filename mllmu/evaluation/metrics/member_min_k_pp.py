"""Membership by the least likely tokens, each against all other words there."""

from __future__ import annotations

import math
from typing import ClassVar

from mllmu.core.records import Response, Sample, Score, TaskName
from mllmu.evaluation.metrics import Metric
from mllmu.evaluation.ranking import lowest_mean


class MemberMinKPlusPlus(Metric):
    """Mean of the 20 % lowest standardised log-probabilities of answer tokens (min-k++).

    z_t = (log p(y_t) - m_t) / s_t,  m_t and s_t mean and standard deviation of log p(v) over the vocabulary, v ~ p
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2404.02936"
    tasks: ClassVar[tuple[TaskName, ...]] = ("generation", "cloze")
    unit: ClassVar[str] = "standard deviations"
    range: ClassVar[tuple[float, float]] = (-math.inf, math.inf)
    label: ClassVar[str] = "Membership: min-k++"
    measures: ClassVar[tuple[str, ...]] = ("tokens",)

    def score(self, sample: Sample, response: Response) -> Score:
        if response.tokens is None:
            return self.judged(sample, None, "no token statistics")
        return self.judged(sample, lowest_mean(response.tokens.z))


PLUGIN = MemberMinKPlusPlus
