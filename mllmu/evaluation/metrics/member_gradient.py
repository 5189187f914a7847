"""Membership by the gradient."""

import math

from mllmu.evaluation.metrics import Metric, Response, Sample


class MemberGradient(Metric):
    """Minus the norm of the gradient of the answer's mean nll: a text that was learned pulls less.

    The gradient is with respect to the embeddings of the prompt and the answer, not to the weights (published code):
    one backward pass serves a whole batch, and nothing of a model's size has to be kept.
    """

    source = "https://arxiv.org/abs/2402.15968"
    tasks = ("generation", "cloze")
    unit = "minus nats a unit of embedding"
    range = (-math.inf, 0.0)
    label = "Membership: gradient"
    measures = ("tokens", "gradient")

    def value(self, sample: Sample, response: Response) -> float | str:
        norm = response.tokens.gradient_norm if response.tokens else None
        return "no gradient" if norm is None else -norm
