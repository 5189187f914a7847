"""How readily the model would say the whole answer."""

from __future__ import annotations

import math

from mllmu.core.records import Response, Sample
from mllmu.evaluation.metrics import NO_LIKELIHOOD, Metric


class Exposure(Metric):
    """Log-probability of the whole answer, in nats: sum_t log p(y_t | question, y_<t), end-of-sequence included.

    0 = certain. Unlike probability it is not taken per token, so long answers lie lower: compare models, not questions.
    """

    source = "https://arxiv.org/abs/1802.08232"
    tasks = ("generation", "cloze")
    unit = "nats"
    range = (-math.inf, 0.0)
    label = "Log-probability"

    def value(self, sample: Sample, response: Response) -> float | str:
        found = response.candidates.get("target")
        return found.logp if found else NO_LIKELIHOOD


PLUGIN = Exposure
