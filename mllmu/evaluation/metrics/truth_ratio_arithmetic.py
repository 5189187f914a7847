"""The truth ratio with the arithmetic mean of TOFU's text."""

import math
from collections.abc import Sequence

from mllmu.evaluation.metrics.truth_ratio import TruthRatio


class TruthRatioArithmetic(TruthRatio):
    """Mean probability of wrong answers relative to that of the right one in other words, per token.

    R = mean over wrong answers w of exp( logp(w)/tokens(w) ) / exp( logp(g)/tokens(g) )

    As truth_ratio, which takes the geometric mean; one likely wrong answer among unlikely ones counts for more here.
    Wrong answers at -1 and -3 nats and the truth at -1 nat per token: (1 + e^-2) / 2 = 0.568, there e^-1 = 0.368.
    """

    label = "Truth ratio (arithmetic)"

    def ratio(self, logs: Sequence[float]) -> float:
        return math.fsum(map(math.exp, logs)) / len(logs)
