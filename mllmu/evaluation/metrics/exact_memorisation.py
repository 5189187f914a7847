"""How many words of the answer the model would say next by itself."""

from __future__ import annotations

from mllmu.core.records import Response, Sample
from mllmu.evaluation.metrics import NO_TOKENS, Metric


class ExactMemorisation(Metric):
    """Share of the answer's tokens that are the model's first choice when the true tokens before them are given.

    (1/T) sum_t [ argmax p(. | question, y_<t) = y_t ], end-of-sequence included; 1 = the answer comes word by word.
    """

    source = "https://arxiv.org/abs/2506.12618"
    tasks = ("generation", "cloze")
    label = "Exact memorisation"
    measures = ("tokens",)

    def value(self, sample: Sample, response: Response) -> float | str:
        if response.tokens is None:
            return NO_TOKENS
        hits = response.tokens.hits
        return hits.count("1") / len(hits)


PLUGIN = ExactMemorisation
