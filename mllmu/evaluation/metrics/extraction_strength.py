"""How little of the answer must be given away until the rest comes by itself."""

from __future__ import annotations

from typing import ClassVar

from mllmu.core.records import Response, Sample, Score, TaskName
from mllmu.evaluation.metrics import Metric


class ExtractionStrength(Metric):
    """Share of the answer that the model completes by itself once the tokens before it are given.

    1 - k/T, k the smallest number of given tokens behind which every token is the model's first choice

    1 = nothing need be given; 0 = not even the last token comes by itself (published code gives 1/T).
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2407.06460"
    tasks: ClassVar[tuple[TaskName, ...]] = ("generation", "cloze")
    label: ClassVar[str] = "Extraction strength"
    measures: ClassVar[tuple[str, ...]] = ("tokens",)

    def score(self, sample: Sample, response: Response) -> Score:
        if response.tokens is None:
            return self.judged(sample, None, "no token statistics")
        hits = response.tokens.hits
        return self.judged(sample, (len(hits) - len(hits.rstrip("1"))) / len(hits))


PLUGIN = ExtractionStrength
