"""What metrics share that read how likely a model finds the true answer, as a whole or token by token."""

import math
from abc import abstractmethod
from typing import ClassVar

from mllmu.evaluation.metrics import CandidateLogp, Metric, Response, Sample, TokenStats

NO_COMPARISON = "no likelihood for the truth or for a wrong answer"


class LikelihoodMetric(Metric):
    """Base of the metrics that read one thing: how likely the model finds the true answer."""

    tasks = ("generation", "cloze")
    unit = "nats"
    range = (-math.inf, 0.0)
    reads_likelihood = True

    def value(self, sample: Sample, response: Response) -> float | str:
        likelihood = response.candidates.get("target")
        return self.of_likelihood(likelihood, sample.target) if likelihood else "no likelihood for the target"

    @abstractmethod
    def of_likelihood(self, likelihood: CandidateLogp, answer: str) -> float:
        """The value, given the log-probability of the answer, in nats, and the number of its tokens."""


class TokenMetric(Metric):
    """Base of the metrics that read statistics of every token of the true answer; its end token does not count."""

    tasks = ("generation", "cloze")
    measures: ClassVar[tuple[str, ...]] = ("tokens",)
    version = 2

    def value(self, sample: Sample, response: Response) -> float | str:
        content = response.tokens.without_end() if response.tokens else None
        return self.of_tokens(content) if content and content.hits else "no token statistics"

    @abstractmethod
    def of_tokens(self, tokens: TokenStats) -> float | str:
        """The value, given the statistics; or in words why there is none."""


def mean_logp(response: Response, key: str) -> float | None:
    """Log-probability per token of a candidate reply, in nats; None if it was not computed."""
    found = response.candidates.get(key)
    return found.logp / found.num_tokens if found else None
