"""How little of the answer must be given away until the rest comes by itself."""

from mllmu.evaluation.likelihood import TokenMetric
from mllmu.evaluation.metrics import TokenStats


class ExtractionStrength(TokenMetric):
    """Share of the answer that the model completes by itself once the tokens before it are given.

    1 - k/T, k the smallest number of given tokens behind which every token is the model's first choice

    1 = nothing need be given; 0 = not even the last token comes by itself (published code gives 1/T). The end of the
    sequence is not one of the T tokens.
    """

    source = "https://arxiv.org/abs/2407.06460"
    label = "Extraction strength"

    def of_tokens(self, tokens: TokenStats) -> float:
        hits = tokens.hits
        return (len(hits) - len(hits.rstrip("1"))) / len(hits)
