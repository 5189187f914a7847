"""How many words of the answer the model would say next by itself."""

from __future__ import annotations

from typing import ClassVar

from mllmu.core.records import Response, Sample, Score, TaskName
from mllmu.evaluation.metrics import Metric


class ExactMemorisation(Metric):
    """Share of the answer's tokens that are the model's first choice when the true tokens before them are given.

    (1/T) sum_t [ argmax p(. | question, y_<t) = y_t ], end-of-sequence included; 1 = the answer comes word by word.
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2506.12618"
    tasks: ClassVar[tuple[TaskName, ...]] = ("generation", "cloze")
    label: ClassVar[str] = "Exact memorisation"
    measures: ClassVar[tuple[str, ...]] = ("tokens",)

    def score(self, sample: Sample, response: Response) -> Score:
        if response.tokens is None:
            return self.judged(sample, None, "no token statistics")
        hits = response.tokens.hits
        return self.judged(sample, hits.count("1") / len(hits))


PLUGIN = ExactMemorisation
