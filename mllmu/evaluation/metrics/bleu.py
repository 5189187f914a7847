"""BLEU of one sentence."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from mllmu.core.records import Response, Sample
from mllmu.evaluation.metrics import Metric


class Bleu(Metric):
    """BLEU-4 of a reply against the true sentence, on whitespace tokens, with case, as published.

    brevity penalty * exp( mean over n = 1..4 of ln p_n ), where a p_n of 0 becomes 0.1 / number of n-grams (method 1
    of Chen and Cherry 2014). 1 = identical and at least four words; 0 = no common word or an empty reply.
    """

    source = "https://aclanthology.org/W14-3346"
    tasks = ("generation",)
    label = "BLEU-4"
    unit = "overlap"

    def value(self, sample: Sample, response: Response) -> float | str:
        sentence_bleu, smoothing = _nltk()
        return float(sentence_bleu([sample.target.split()], response.text.split(), smoothing_function=smoothing))


@lru_cache(maxsize=1)
def _nltk() -> tuple[Any, Any]:
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu  # a second to import

    return sentence_bleu, SmoothingFunction().method1


PLUGIN = Bleu
