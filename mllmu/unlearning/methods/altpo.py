"""Alternate preference optimisation."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from mllmu.models.families import Turn
from mllmu.training.losses_preference import dpo_loss
from mllmu.unlearning.base import Method, RetainingMethod, Step
from mllmu.unlearning.refusals import REFUSALS


class AlternatePreference(RetainingMethod):
    """Prefer a plausible wrong reply over the true forget reply; the model keeps answering, and answers wrongly.

    L = (2 / beta) * mean over replies of softplus(-beta * (gain of the alternative - gain of the true reply))
        + retain_weight * nll(retain),  gain = log p - log p_ref, summed over the tokens of a reply

    The paper lets the model write the alternatives. Here they are the replies of *other people* to a question about
    the same attribute, drawn for each question and epoch: plausible by construction and nothing to generate. The
    price: a value of another person is taught as this one's. A question about which nobody else has another reply
    gets a refusal.

    Cost of a step: 2 forward and backward passes and 2 extra forwards (reference) on forget, 1 forward and backward
    pass on retain.
    Made for: text. The paper scans beta 0.05 to 0.5 and retain weights 1 to 5, 10 epochs.
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2409.13474"
    uses_reference: ClassVar[bool] = True
    tuned: ClassVar[tuple[str, ...]] = (*Method.tuned, "beta", "retain_weight")

    epochs: float = Field(10, gt=0, description="passes over the forget set")
    beta: float = Field(0.1, gt=0, description="inverse temperature, 1/nat; smaller moves further from the reference")

    def loss(self, step: Step) -> dict[str, Tensor]:
        if not step.on_forget:
            return self.retain_terms(step)
        forget = step.forget
        loss = dpo_loss(
            forget.alternative.row_logp_B,
            forget.alternative_reference.row_logp_B,
            forget.current.row_logp_B,
            forget.reference.row_logp_B,
            beta=self.beta,
        )
        return {"forget_preference": loss} | self.retain_terms(step)

    def alternative(self, turn: Turn, others: Sequence[Turn], draw: random.Random) -> str:
        del turn
        return draw.choice(others).reply if others else draw.choice(REFUSALS)


PLUGIN = AlternatePreference
