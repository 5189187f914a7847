"""Gradient ascent."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor

from mllmu.training.losses import answer_nll
from mllmu.unlearning.base import PUBLISHED, Method, Step


class GradientAscent(Method):
    """Make the forget replies less likely, and nothing else; the model collapses if it runs for long.

    L = -mean over forget tokens of -log p(token), in nats per token; unbounded below without ``clip``. With it,
    L = -min(nll, clip), so a batch whose mean nll is already above ``clip`` adds no gradient.

    Cost of a step: 1 forward and backward pass on forget; no retain data, no reference.
    Published code: its loss also covers the prompt but no end token, and it adapts the vision tower too;
    ``compat: official`` reproduces that. It has no clip.
    Made for: text.
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2210.01504"
    official: ClassVar[dict[str, Any]] = PUBLISHED

    clip: float | None = Field(None, gt=0, description="stop pushing while the mean nll is above so many nats a token")

    def loss(self, step: Step) -> dict[str, Tensor]:
        if not step.on_forget:
            return {}
        return {"forget_ascent": -answer_nll(step.forget.current).clamp(max=self.clip or float("inf"))}


PLUGIN = GradientAscent
