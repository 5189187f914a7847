"""The truth ratio with the arithmetic mean of TOFU's text."""

from __future__ import annotations

import math
from typing import ClassVar

from mllmu.evaluation.metrics import mean_logp
from mllmu.evaluation.metrics.truth_ratio import TruthRatio
from mllmu.records import Response, Sample, Score

_MOST_LOG_RATIO = 700.0


class TruthRatioArithmetic(TruthRatio):
    """Mean probability of wrong answers relative to that of the right one in other words, per token.

    R = mean over wrong answers w of exp( logp(w)/tokens(w) ) / exp( logp(g)/tokens(g) )

    As truth_ratio, which takes the geometric mean; one likely wrong answer among unlikely ones counts for more here.
    Wrong answers at -1 and -3 nats and the truth at -1 nat per token: (1 + e^-2) / 2 = 0.568, there e^-1 = 0.368.
    """

    label: ClassVar[str] = "Truth ratio (arithmetic)"

    def score(self, sample: Sample, response: Response) -> Score:
        gold = mean_logp(response, "rewording" if "rewording" in sample.candidates else "target")
        wrong = [mean_logp(response, key) for key in sample.candidates if key.startswith("wrong_")]
        known = [logp for logp in wrong if logp is not None]
        if gold is None or not known or len(known) < len(wrong):
            return self.judged(sample, None, "no likelihood for the truth or for a wrong answer")
        ratios = [math.exp(min(logp - gold, _MOST_LOG_RATIO)) for logp in known]
        return self.judged(sample, math.fsum(ratios) / len(ratios))


PLUGIN = TruthRatioArithmetic
