"""Direct preference optimisation with a refusal as the better reply."""

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


class DirectPreference(RetainingMethod):
    """Prefer a refusal over the true forget reply, measured against the reference, and train retain as before.

    L = (2 / beta) * mean over replies of softplus(-beta * (gain of the refusal - gain of the true reply))
        + retain_weight * nll(retain),  gain = log p - log p_ref, summed over the tokens of a reply

    Both halves: the refusal becomes likelier as in ``idk``, the true reply less likely as in ``npo``.

    Cost of a step: 2 forward and backward passes and 2 extra forwards (reference) on forget, 1 forward and backward
    pass on retain.
    Made for: text, as preference tuning; a baseline of TOFU (arXiv:2401.06121), whose beta and epochs these are.
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2305.18290"
    uses_reference: ClassVar[bool] = True
    tuned: ClassVar[tuple[str, ...]] = (*Method.tuned, "beta", "retain_weight")

    epochs: float = Field(5, gt=0, description="passes over the forget set")
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
        del turn, others
        return draw.choice(REFUSALS)


PLUGIN = DirectPreference
