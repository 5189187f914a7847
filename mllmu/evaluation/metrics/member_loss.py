"""Membership by loss."""

from __future__ import annotations

import math
from typing import ClassVar

from mllmu.core.records import Response, Sample, Score, TaskName
from mllmu.evaluation.metrics import Metric, mean_logp


class MemberLoss(Metric):
    """Mean log-probability of an answer token, in nats: the higher, the more it looks like training data.

    The number itself says little; the summary membership compares it between forgotten and unknown people.
    """

    source: ClassVar[str] = "https://arxiv.org/abs/1709.01604"
    tasks: ClassVar[tuple[TaskName, ...]] = ("generation", "cloze")
    unit: ClassVar[str] = "nats"
    range: ClassVar[tuple[float, float]] = (-math.inf, 0.0)
    label: ClassVar[str] = "Membership: loss"

    def score(self, sample: Sample, response: Response) -> Score:
        logp = mean_logp(response, "target")
        return self.judged(sample, logp, "" if logp is not None else "no likelihood for the target")


PLUGIN = MemberLoss
