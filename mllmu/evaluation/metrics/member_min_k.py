"""Membership by the least likely tokens."""

from __future__ import annotations

import math

from mllmu.core.records import Response, Sample
from mllmu.evaluation.metrics import NO_TOKENS, Metric
from mllmu.evaluation.ranking import lowest_mean


class MemberMinK(Metric):
    """Mean log-probability of the 20 % least likely answer tokens (at least one), in nats (min-k).

    A text that was seen has few surprises. Tokens -1, -2, -3, -4, -5: the lowest one, -5.
    """

    source = "https://arxiv.org/abs/2310.16789"
    tasks = ("generation", "cloze")
    unit = "nats"
    range = (-math.inf, 0.0)
    label = "Membership: min-k"
    measures = ("tokens",)

    def value(self, sample: Sample, response: Response) -> float | str:
        return lowest_mean(response.tokens.logps) if response.tokens else NO_TOKENS


PLUGIN = MemberMinK
