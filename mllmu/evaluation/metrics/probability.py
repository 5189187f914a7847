"""How likely the model finds the right answer."""

from __future__ import annotations

import math
from typing import ClassVar

from mllmu.core.records import Response, Sample, Score, TaskName
from mllmu.evaluation.metrics import Metric, mean_logp


class Probability(Metric):
    """Probability of the right answer per token, whatever the model would say by itself.

    exp( log p(answer | prompt) / tokens ), the geometric mean over tokens; 1 = certain of every token.
    Two tokens of probability 0.25 and 1 give 0.5. None if the likelihood was not computed.
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2401.06121"
    tasks: ClassVar[tuple[TaskName, ...]] = ("generation", "cloze")
    unit: ClassVar[str] = "probability per token"
    label: ClassVar[str] = "Probability"

    def score(self, sample: Sample, response: Response) -> Score:
        logp = mean_logp(response, "target")
        if logp is None:
            return self.judged(sample, None, "no likelihood for the target")
        return self.judged(sample, math.exp(min(logp, 0.0)))


PLUGIN = Probability
