"""Gradient ascent."""

from pydantic import Field

from mllmu.training.losses import answer_nll
from mllmu.unlearning.base import PUBLISHED, Method, Step, Terms


class GradientAscent(Method):
    """Make the forget replies less likely, and nothing else; the model collapses if it runs for long.

    L = -mean over forget tokens of -log p(token), in nats per token; unbounded below without ``clip``. With it,
    L = -min(nll, clip), so a batch whose mean nll is already above ``clip`` adds no gradient.

    Cost of a step: 1 forward and backward pass on forget; no retain data, no reference.
    Published code: its loss also covers the prompt but no end token, and it adapts the vision tower too;
    ``compat: official`` reproduces that. It has no clip.
    Made for: text.
    """

    source = "https://arxiv.org/abs/2210.01504"
    official = PUBLISHED

    clip: float | None = Field(None, gt=0, le=10**6)
    """stop pushing while the mean nll is above this, in nats per token"""

    def forget_terms(self, step: Step) -> Terms:
        return {"forget_ascent": -answer_nll(step.forget.current).clamp(max=self.clip or float("inf"))}
