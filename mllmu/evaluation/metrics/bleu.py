"""BLEU of one sentence."""

import re

from mllmu.core.parsing import SPACELESS
from mllmu.evaluation.rouge import OverlapMetric, composed


class Bleu(OverlapMetric):
    """BLEU-4 of a reply against the true sentence, on whitespace tokens, with case, as published.

    In scripts without spaces every character is a token.

    brevity penalty * exp( mean over n = 1..4 of ln p_n ), where a p_n of 0 becomes 0.1 / number of n-grams (method 1
    of Chen and Cherry 2014). 1 = identical and at least four words; 0 = no common word or an empty reply.
    """

    source = "https://aclanthology.org/W14-3346"
    label = "BLEU-4"

    def overlap(self, truth: str, reply: str, *, published: bool) -> float:
        from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu  # a second to import

        if not published:
            truth, reply = (re.sub(f"[{SPACELESS}]", r" \g<0> ", composed(text)) for text in (truth, reply))
        smoothing = SmoothingFunction().method1
        return float(sentence_bleu([truth.split()], reply.split(), smoothing_function=smoothing))
