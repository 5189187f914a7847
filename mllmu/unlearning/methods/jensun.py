"""Unlearning by the Jensen-Shannon divergence."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from mllmu.models.families import Turn
from mllmu.training.losses_bounded import js_to_reference, js_to_token
from mllmu.unlearning.base import Method, Step


class JensenShannon(Method):
    """Go towards a refusal and stay at the reference, both by a divergence that cannot exceed ln 2.

    L = forget_weight * mean over refusal tokens of JS(model, onehot(token))
        + retain_weight * mean over retain tokens of JS(model, reference)

    Unlike the nll of ``idk`` the pull is weak where the refusal is still very unlikely: it begins slowly and cannot
    run away. Published code puts the refusal's tokens, repeated, at the places of the true reply; here they follow
    each other as they would be said, so the model can say them.

    Cost of a step: 1 forward and backward pass on forget and 1 on retain, and 1 extra forward on retain (reference).
    Made for: text. The refusal is the paper's.
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2509.02820"
    uses_reference: ClassVar[bool] = True
    tuned: ClassVar[tuple[str, ...]] = (*Method.tuned, "retain_weight")

    epochs: float = Field(10, gt=0, description="passes over the forget set")
    learning_rate: float = Field(1e-5, gt=0)
    refusal: str = Field("No idea", min_length=1, description="what to say instead of the private fact")
    forget_weight: float = Field(1.0, gt=0)
    retain_weight: float = Field(1.0, gt=0)

    @property
    def uses_retain(self) -> bool:
        return True

    def loss(self, step: Step) -> dict[str, Tensor]:
        terms = {}
        if step.on_forget:
            terms["forget_js"] = self.forget_weight * js_to_token(step.forget.alternative.token_logp_N)
        if step.on_retain:
            retain = step.retain
            terms["retain_js"] = self.retain_weight * js_to_reference(
                retain.current.logits_NV, retain.reference.logits_NV
            )
        return terms

    def alternative(self, turn: Turn, others: Sequence[Turn], draw: random.Random) -> str:
        del turn, others, draw
        return self.refusal


PLUGIN = JensenShannon
