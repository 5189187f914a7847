"""Membership by loss relative to how compressible the answer is."""

import zlib

from mllmu.evaluation.metrics import CandidateLogp, LikelihoodMetric


class MemberZlib(LikelihoodMetric):
    """Log-probability of the answer in nats divided by its length in bytes after zlib compression.

    Plain, repetitive text is likely for any model; dividing by its information makes answers comparable.
    """

    source = "https://arxiv.org/abs/2012.07805"
    unit = "nats a byte"
    label = "Membership: zlib"

    def of_likelihood(self, likelihood: CandidateLogp, answer: str) -> float:
        return likelihood.logp / len(zlib.compress(answer.encode()))
