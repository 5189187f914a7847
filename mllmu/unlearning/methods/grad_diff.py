"""Gradient difference."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from mllmu.training.losses import answer_nll
from mllmu.unlearning.base import Method, Step


class GradientDifference(Method):
    """Gradient ascent on forget and ordinary training on retain, in the same step.

    L = -forget_weight * nll(forget) + retain_weight * nll(retain), each a mean over tokens; unbounded below.

    Cost of a step: 1 forward and backward pass on forget and 1 on retain; no reference.
    Published code: a whole ascent pass over forget, then a whole descent pass over retain, prompt in the loss;
    ``schedule: two_phase`` and ``loss_on: all`` reproduce that.
    Made for: text.
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2203.12817"
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
