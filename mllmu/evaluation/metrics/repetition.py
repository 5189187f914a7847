"""How much a reply repeats itself."""

from __future__ import annotations

from typing import ClassVar, Literal

from mllmu.core.records import Response, Sample, Score, TaskName
from mllmu.evaluation.metrics import Metric
from mllmu.evaluation.outcome import distinct_trigrams


class Repetition(Metric):
    """Share of a reply's word trigrams (of characters in short replies) that it has said before: 1 - distinct share.

    0 = nothing twice; 'a b a b a b' gives 0.5. A collapsed model is near 1.
    """

    source: ClassVar[str] = "https://arxiv.org/abs/1904.09751"
    tasks: ClassVar[tuple[TaskName, ...]] = ("generation",)
    label: ClassVar[str] = "Repetition"
    best: ClassVar[Literal["higher", "lower"]] = "lower"

    def score(self, sample: Sample, response: Response) -> Score:
        if not response.text.strip():
            return self.judged(sample, None, "empty reply")
        return self.judged(sample, 1 - distinct_trigrams(response.text))


PLUGIN = Repetition
