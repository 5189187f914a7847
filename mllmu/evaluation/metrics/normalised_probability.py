"""How likely the right answer is among the right and the wrong ones."""

from __future__ import annotations

import math
from typing import ClassVar

from mllmu.core.records import Response, Sample, Score, TaskName
from mllmu.evaluation.metrics import Metric, mean_logp


class NormalisedProbability(Metric):
    """Probability of the right answer among all candidates, each taken per token.

    P(target) / (P(target) + sum over wrong answers P(w)),  P = exp( log p / tokens )

    0.5 for one wrong answer that is as likely as the right one. None without a wrong answer or a likelihood.
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2401.06121"
    tasks: ClassVar[tuple[TaskName, ...]] = ("generation", "cloze")
    unit: ClassVar[str] = "probability"
    label: ClassVar[str] = "Normalised probability"

    def score(self, sample: Sample, response: Response) -> Score:
        logps = [
            mean_logp(response, key) for key in ("target", *(k for k in sample.candidates if k.startswith("wrong_")))
        ]
        known = [logp for logp in logps if logp is not None]
        if len(logps) < 2 or len(known) < len(logps):
            return self.judged(sample, None, "no likelihood for the truth or for a wrong answer")
        likeliest = max(known)
        shares = [math.exp(logp - likeliest) for logp in known]
        return self.judged(sample, shares[0] / math.fsum(shares))


PLUGIN = NormalisedProbability
