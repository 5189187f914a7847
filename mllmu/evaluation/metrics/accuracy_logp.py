"""Multiple choice accuracy by likelihood, without reading any text."""

from __future__ import annotations

from typing import ClassVar

from mllmu.core.records import Response, Sample, Score, TaskName
from mllmu.evaluation.metrics import Metric


class AccuracyLogp(Metric):
    """Share of multiple choice questions whose right letter is the likeliest of the option letters.

    Score 1 if argmax over letters of log p(letter | prompt) is the right one, else 0; None if a letter's likelihood
    is missing, or if several letters share the highest one (a collapsed model would otherwise always 'choose' A).
    """

    source: ClassVar[str] = "https://github.com/EleutherAI/lm-evaluation-harness"
    tasks: ClassVar[tuple[TaskName, ...]] = ("classification",)
    label: ClassVar[str] = "Accuracy (likelihood)"

    def score(self, sample: Sample, response: Response) -> Score:
        logps = {letter: found.logp for letter, found in response.candidates.items() if letter in sample.options}
        if missing := sorted(set(sample.options) - set(logps)):
            return self.judged(sample, None, f"no likelihood for option {', '.join(missing)}")
        if any(logp != logp for logp in logps.values()):
            return self.judged(sample, None, "a likelihood is not a number")
        best = [letter for letter, logp in logps.items() if logp == max(logps.values())]
        if len(best) > 1:
            return self.judged(sample, None, f"options {', '.join(sorted(best))} are equally likely")
        return self.judged(sample, float(best[0] == sample.target))


PLUGIN = AccuracyLogp
