"""Membership by loss."""

from __future__ import annotations

import math

from mllmu.core.records import Response, Sample
from mllmu.evaluation.metrics import NO_LIKELIHOOD, Metric, mean_logp


class MemberLoss(Metric):
    """Mean log-probability of an answer token, in nats: the higher, the more it looks like training data.

    The number itself says little; the summary membership compares it between forgotten and unknown people.
    """

    source = "https://arxiv.org/abs/1709.01604"
    tasks = ("generation", "cloze")
    unit = "nats"
    range = (-math.inf, 0.0)
    label = "Membership: loss"

    def value(self, sample: Sample, response: Response) -> float | str:
        logp = mean_logp(response, "target")
        return NO_LIKELIHOOD if logp is None else logp


PLUGIN = MemberLoss
