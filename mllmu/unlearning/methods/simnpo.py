"""Simple negative preference optimisation."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from mllmu.training.losses_preference import simnpo_loss
from mllmu.unlearning.base import Method, RetainingMethod, Step


class SimpleNegativePreference(RetainingMethod):
    """NPO without a reference: replies are compared by their likelihood per token with a fixed margin.

    L = forget_weight * (2 / beta) * mean over replies of softplus(-beta * (nll / length - margin))
        + retain_weight * nll(retain)

    Long and short replies count alike, and replies that are already unlikely no longer push.

    Cost of a step: 1 forward and backward pass on forget and 1 on retain; no reference.
    Made for: text. beta 4.5, margin 0 and weight 0.125 are the paper's for TOFU.
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2410.07163"
    tuned: ClassVar[tuple[str, ...]] = (*Method.tuned, "beta", "forget_weight", "retain_weight")

    epochs: float = Field(10, gt=0, description="passes over the forget set")
    learning_rate: float = Field(1e-5, gt=0)
    beta: float = Field(4.5, gt=0, description="1/nat; larger stops sooner once a reply is unlikely")
    margin: float = Field(0.0, ge=0, description="nats a token that a reply should at least cost")
    forget_weight: float = Field(0.125, gt=0)

    def loss(self, step: Step) -> dict[str, Tensor]:
        forget = {}
        if step.on_forget:
            loss = simnpo_loss(step.forget.current, beta=self.beta, margin=self.margin)
            forget["forget_simnpo"] = self.forget_weight * loss
        return forget | self.retain_terms(step)


PLUGIN = SimpleNegativePreference
