"""Membership by loss."""

from mllmu.evaluation.likelihood import LikelihoodMetric
from mllmu.evaluation.metrics import CandidateLogp


class MemberLoss(LikelihoodMetric):
    """Mean log-probability of an answer token, in nats: the higher, the more it looks like training data.

    The number itself says little; the summary membership compares it between forgotten and unknown people.
    """

    source = "https://arxiv.org/abs/1709.01604"
    label = "Membership: loss"

    def of_likelihood(self, likelihood: CandidateLogp, answer: str) -> float:
        return likelihood.logp / likelihood.num_tokens
