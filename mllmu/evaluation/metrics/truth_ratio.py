"""Does the model find wrong answers as likely as the right one?"""

from __future__ import annotations

import math
from typing import ClassVar

from mllmu.evaluation.metrics import Metric, mean_logp
from mllmu.records import Response, Sample, Score, Split, TaskName

# Beyond this log the ratio leaves floating point range; such a model is as sure as a number can say.
_MOST_LOG_RATIO = 700.0


class TruthRatio(Metric):
    """Likelihood of wrong answers relative to the right one in other words, per token.

    R = exp( mean over wrong answers w of logp(w)/tokens(w) ) / exp( logp(g)/tokens(g) )

    g is the right answer reworded, or the target where there is no rewording: the wording that was trained is more
    likely than any other for that alone. The score is R itself, in [0, inf): below 1 the model prefers the truth,
    and its distribution is what the KS distance to the retain_model compares. The aggregate depends on the split:
        forget, test:  mean of min(R, 1/R); 1 = truth and lies are told apart as little as possible
        elsewhere:     mean of max(0, 1 - R); 1 = only the truth is likely
    For one wrong answer at -2 nats and the truth at -1 nat per token, R = e^-1 = 0.368.
    None if a likelihood is missing.

    The mean over wrong answers is geometric, as in OpenUnlearning's code; the formula in TOFU is arithmetic.
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2401.06121"
    tasks: ClassVar[tuple[TaskName, ...]] = ("generation", "cloze")
    unit: ClassVar[str] = "ratio"
    label: ClassVar[str] = "Truth ratio"

    def score(self, sample: Sample, response: Response) -> Score:
        gold = mean_logp(response, "rewording" if "rewording" in sample.candidates else "target")
        wrong = [mean_logp(response, key) for key in sample.candidates if key.startswith("wrong_")]
        known = [logp for logp in wrong if logp is not None]
        if gold is None or not known or len(known) < len(wrong):
            return self.judged(sample, None, "no likelihood for the truth or for a wrong answer")
        log_ratio = math.fsum(known) / len(known) - gold
        return self.judged(sample, math.exp(min(log_ratio, _MOST_LOG_RATIO)))

    def readable(self, value: float, split: Split) -> float:
        if split in ("forget", "test"):
            return value if value <= 1 else 1 / value
        return max(0.0, 1 - value)


PLUGIN = TruthRatio
