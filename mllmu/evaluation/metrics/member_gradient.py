"""Membership by the gradient."""

from __future__ import annotations

import math
from typing import ClassVar

from mllmu.core.records import Response, Sample, Score, TaskName
from mllmu.evaluation.metrics import Metric


class MemberGradient(Metric):
    """Minus the norm of the gradient of the answer's mean nll: a text that was learned pulls less.

    The gradient is with respect to the embeddings of the prompt and the answer, not to the weights (published code):
    one backward pass serves a whole batch, and nothing of a model's size has to be kept.
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2402.15968"
    tasks: ClassVar[tuple[TaskName, ...]] = ("generation", "cloze")
    unit: ClassVar[str] = "minus nats a unit of embedding"
    range: ClassVar[tuple[float, float]] = (-math.inf, 0.0)
    label: ClassVar[str] = "Membership: gradient"
    measures: ClassVar[tuple[str, ...]] = ("tokens", "gradient")

    def score(self, sample: Sample, response: Response) -> Score:
        found = response.tokens.gradient_norm if response.tokens else None
        return self.judged(sample, None if found is None else -found, "" if found is not None else "no gradient")


PLUGIN = MemberGradient
