"""Membership by the least likely tokens."""

from __future__ import annotations

import math
from typing import ClassVar

from mllmu.core.records import Response, Sample, Score, TaskName
from mllmu.evaluation.metrics import Metric
from mllmu.evaluation.ranking import lowest_mean


class MemberMinK(Metric):
    """Mean log-probability of the 20 % least likely answer tokens (at least one), in nats (min-k).

    A text that was seen has few surprises. Tokens -1, -2, -3, -4, -5: the lowest one, -5.
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2310.16789"
    tasks: ClassVar[tuple[TaskName, ...]] = ("generation", "cloze")
    unit: ClassVar[str] = "nats"
    range: ClassVar[tuple[float, float]] = (-math.inf, 0.0)
    label: ClassVar[str] = "Membership: min-k"
    measures: ClassVar[tuple[str, ...]] = ("tokens",)

    def score(self, sample: Sample, response: Response) -> Score:
        if response.tokens is None:
            return self.judged(sample, None, "no token statistics")
        return self.judged(sample, lowest_mean(response.tokens.logps))


PLUGIN = MemberMinK
