"""Primal-dual unlearning."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from mllmu.training.losses import answer_nll
from mllmu.training.losses_bounded import flattening_loss
from mllmu.unlearning.base import Method, Step

DUAL = "dual"


class PrimalDual(Method):
    """Flatten the forget predictions under a hard limit on the retain loss.

    L = mean over forget tokens of (max logit - mean logit)^2 + dual * (nll(retain) - limit)
    after each step: dual = max(0, dual + dual_rate * (nll(retain) - limit))

    The weight of retain grows while it is worse than the limit and falls to nothing while it is better. The limit
    decides: take the target's own nll on retain, or a little more.

    Cost of a step: 1 forward and backward pass on forget and 1 on retain; no reference. The dual variable is kept in
    checkpoints.
    Made for: text. Limit, rate and first weight are those of the authors' TOFU runs.
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2506.05314"
    tuned: ClassVar[tuple[str, ...]] = (*Method.tuned, "limit", "dual_rate")

    epochs: float = Field(10, gt=0, description="passes over the forget set")
    learning_rate: float = Field(1e-5, gt=0)
    limit: float = Field(0.3, ge=0, description="nll of the retain replies that is allowed, in nats a token")
    dual_rate: float = Field(5.0, ge=0, description="how fast the weight of retain adapts; 0 keeps it")
    first_dual: float = Field(100.0, ge=0, description="weight of retain at the first step")

    @property
    def uses_retain(self) -> bool:
        return True

    def loss(self, step: Step) -> dict[str, Tensor]:
        terms = {}
        if step.on_forget:
            terms["forget_flatness"] = flattening_loss(step.forget.current.logits_NV)
        if step.on_retain:
            dual = step.memory.get(DUAL, self.first_dual)
            over = answer_nll(step.retain.current) - self.limit
            terms["retain_limit"] = dual * over
            step.memory[DUAL] = max(0.0, dual + self.dual_rate * over.item())
        return terms


PLUGIN = PrimalDual
