"""Does the model find wrong answers as likely as the right one?"""

import math
from collections.abc import Sequence

from mllmu.core.records import TO_FORGET
from mllmu.evaluation.likelihood import NO_COMPARISON, mean_logp
from mllmu.evaluation.metrics import Metric, Response, Sample, Split

# Beyond this log the ratio leaves floating point range; such a model is as sure as a number can say.
_MOST_LOG_RATIO = 700.0


class TruthRatio(Metric):
    """Likelihood of wrong answers relative to the right one in other words, per token.

    R = exp( mean over wrong answers w of logp(w)/tokens(w) ) / exp( logp(g)/tokens(g) )

    g is the right answer reworded, and the wrong answers are in the words of the rewording too; without a rewording all
    are in the words of the target. A wording that was trained is more likely than any other for that alone, so the two
    must not be mixed. The score is R itself, in [0, inf): below 1 the model prefers the truth,
    and its distribution is what the KS distance to the retain_model compares. The aggregate depends on the split:
        forget, test:  mean of min(R, 1/R); 1 = truth and lies are told apart as little as possible
        elsewhere:     mean of max(0, 1 - R); 1 = only the truth is likely
    For one wrong answer at -2 nats and the truth at -1 nat per token, R = e^-1 = 0.368.
    None if a likelihood is missing.

    The mean over wrong answers is geometric, as in OpenUnlearning's code; the formula in TOFU is arithmetic.
    """

    source = "https://arxiv.org/abs/2401.06121"
    tasks = ("generation", "cloze")
    reads_likelihood = True
    unit = "ratio"
    label = "Truth ratio"
    version = 2
    known = "lower"

    def value(self, sample: Sample, response: Response) -> float | str:
        right, wrong = likelihoods(sample, response)
        logps = [logp for logp in wrong if logp is not None]
        if right is None or not logps or len(logps) < len(wrong):
            return NO_COMPARISON
        return self.ratio([min(logp - right, _MOST_LOG_RATIO) for logp in logps])

    def ratio(self, logs: Sequence[float]) -> float:
        """The ratio, given log of wrong over right for every wrong answer."""
        return math.exp(math.fsum(logs) / len(logs))

    def readable(self, value: float, split: Split) -> float:
        if split in TO_FORGET:
            return value if value <= 1 else 1 / value
        return max(0.0, 1 - value)


def likelihoods(sample: Sample, response: Response) -> tuple[float | None, list[float | None]]:
    """Log-probability per token of the truth and of the wrong answers, all in one wording."""
    start = "reworded_wrong_" if "reworded_wrong_0" in sample.candidates else "wrong_"
    wrong = [mean_logp(response, key) for key in sample.candidates if key.startswith(start)]
    return mean_logp(response, "rewording" if "rewording" in sample.candidates else "target"), wrong
