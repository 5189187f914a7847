"""Gradient difference."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor

from mllmu.training.losses import answer_nll
from mllmu.unlearning.base import PUBLISHED, Method, Step


class GradientDifference(Method):
    """Gradient ascent on forget and ordinary training on retain, in the same step.

    L = -forget_weight * nll(forget) + retain_weight * nll(retain), each a mean over tokens; unbounded below.

    Cost of a step: 1 forward and backward pass on forget and 1 on retain; no reference.
    Published code: a whole ascent pass over forget, then a whole descent pass over retain, at one learning rate, and
    what is said of gradient ascent; ``compat: official`` reproduces that.
    Made for: text.
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2203.12817"
    official: ClassVar[dict[str, Any]] = {**PUBLISHED, "schedule": "two_phase", "decay": "none"}
    tuned: ClassVar[tuple[str, ...]] = (*Method.tuned, "retain_weight")

    forget_weight: float = Field(1.0, gt=0)
    retain_weight: float = Field(1.0, gt=0)

    @property
    def uses_retain(self) -> bool:
        return True

    def loss(self, step: Step) -> dict[str, Tensor]:
        terms = {}
        if step.on_forget:
            terms["forget_ascent"] = -self.forget_weight * answer_nll(step.forget.current)
        if step.on_retain:
            terms["retain_nll"] = self.retain_weight * answer_nll(step.retain.current)
        return terms


PLUGIN = GradientDifference
