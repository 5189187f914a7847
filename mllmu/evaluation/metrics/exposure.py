"""How readily the model would say the whole answer."""

from mllmu.evaluation.likelihood import LikelihoodMetric
from mllmu.evaluation.metrics import CandidateLogp


class Exposure(LikelihoodMetric):
    """Log-probability of the whole answer, in nats: sum_t log p(y_t | question, y_<t), end-of-sequence included.

    0 = certain. Unlike probability it is not taken per token, so long answers lie lower: compare models, not questions.
    """

    source = "https://arxiv.org/abs/1802.08232"
    label = "Log-probability"

    def of_likelihood(self, likelihood: CandidateLogp, answer: str) -> float:
        return likelihood.logp
