"""Membership by loss relative to how compressible the answer is."""

import zlib

from mllmu.evaluation.likelihood import LikelihoodMetric
from mllmu.evaluation.metrics import CandidateLogp


class MemberZlib(LikelihoodMetric):
    """Log-probability of the answer in nats per token, divided by its length in bytes after zlib compression.

    Plain, repetitive text is likely for any model; dividing by its information makes answers comparable.
    """

    source = "https://arxiv.org/abs/2012.07805"
    unit = "nats a token and byte"
    version = 2
    label = "Membership: zlib"

    def of_likelihood(self, likelihood: CandidateLogp, answer: str) -> float:
        return likelihood.logp / likelihood.num_tokens / len(zlib.compress(answer.encode()))
