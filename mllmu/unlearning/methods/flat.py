"""Forget data only, loss adjustment."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from mllmu.models.families import Turn
from mllmu.training.losses_bounded import Divergence, flat_loss
from mllmu.unlearning.base import Method, Step
from mllmu.unlearning.refusals import REFUSALS


class LossAdjustment(Method):
    """Drive refusal and true reply apart by an f-divergence; needs neither retain data nor a reference.

    L = mean over questions of -g(P(refusal)) + f*(g(P(true reply))),  P = mean over the reply's tokens of p(token);
    g and f* belong to the divergence, see :func:`mllmu.training.losses_bounded.flat_loss`. Bounded, because P is.

    Cost of a step: 2 forward and backward passes on forget (refusal and true reply).
    Made for: text. The paper compares the four divergences; none wins everywhere.
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2410.11143"

    epochs: float = Field(5, gt=0, description="passes over the forget set")
    divergence: Divergence = Field("tv", description="total variation, Kullback-Leibler, Jensen-Shannon, or Pearson")

    def loss(self, step: Step) -> dict[str, Tensor]:
        if not step.on_forget:
            return {}
        forget = step.forget
        return {"forget_flat": flat_loss(forget.alternative, forget.current, divergence=self.divergence)}

    def alternative(self, turn: Turn, others: Sequence[Turn], draw: random.Random) -> str:
        del turn, others
        return draw.choice(REFUSALS)


PLUGIN = LossAdjustment
