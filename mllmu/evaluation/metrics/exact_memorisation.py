"""How many words of the answer the model would say next by itself."""

from mllmu.evaluation.likelihood import TokenMetric
from mllmu.evaluation.metrics import TokenStats


class ExactMemorisation(TokenMetric):
    """Share of the answer's tokens that are the model's first choice when the true tokens before them are given.

    (1/T) sum_t [ argmax p(. | question, y_<t) = y_t ] over the T tokens before the end of the sequence; 1 = the answer
    comes word by word.
    """

    source = "https://arxiv.org/abs/2506.12618"
    label = "Exact memorisation"

    def of_tokens(self, tokens: TokenStats) -> float:
        return tokens.hits.count("1") / len(tokens.hits)
