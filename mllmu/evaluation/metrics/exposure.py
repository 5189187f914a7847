"""How readily the model would say the whole answer."""

from __future__ import annotations

import math
from typing import ClassVar

from mllmu.core.records import Response, Sample, Score, TaskName
from mllmu.evaluation.metrics import Metric


class Exposure(Metric):
    """Log-probability of the whole answer, in nats: sum_t log p(y_t | question, y_<t), end-of-sequence included.

    0 = certain. Unlike probability it is not taken per token, so long answers lie lower: compare models, not questions.
    """

    source: ClassVar[str] = "https://arxiv.org/abs/1802.08232"
    tasks: ClassVar[tuple[TaskName, ...]] = ("generation", "cloze")
    unit: ClassVar[str] = "nats"
    range: ClassVar[tuple[float, float]] = (-math.inf, 0.0)
    label: ClassVar[str] = "Log-probability"

    def score(self, sample: Sample, response: Response) -> Score:
        found = response.candidates.get("target")
        return self.judged(sample, found.logp if found else None, "" if found else "no likelihood for the target")


PLUGIN = Exposure
