"""Sharpness-aware negative preference optimisation."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from mllmu.training.losses import npo_loss
from mllmu.unlearning.base import Method, RetainingMethod, Step
from mllmu.unlearning.saliency import sharpness_aware


class SharpnessAwareNPO(RetainingMethod):
    """NPO that must also hold at the worst point nearby, so that relearning takes longer.

    L = npo(w + radius * g / ||g||) + retain_weight * nll(retain),  g = gradient of npo(w); npo as in ``npo``:
    (2 / beta) * mean over replies of softplus(beta * (log p - log p_ref)), log p summed over a reply

    Only the forget term is sharpness-aware, as in the paper.

    Cost of a step: 2 forward and backward passes and 1 extra forward (reference) on forget, 1 forward and backward
    pass on retain. Memory: two copies of the trained weights.
    Made for: text, against relearning attacks. The radius is to be tuned.
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2502.05374"
    uses_reference: ClassVar[bool] = True
    tuned: ClassVar[tuple[str, ...]] = (*Method.tuned, "beta", "radius", "retain_weight")

    epochs: float = Field(5, gt=0, description="passes over the forget set")
    beta: float = Field(0.1, gt=0, description="inverse temperature, 1/nat; towards 0 it becomes gradient ascent")
    radius: float = Field(0.01, gt=0, description="how far away the forgetting must hold, in units of weight")

    def loss(self, step: Step) -> dict[str, Tensor]:
        terms = {}
        if step.on_forget:
            reference_B = step.forget.reference.row_logp_B

            def npo() -> Tensor:
                return npo_loss(step.forget.again().row_logp_B, reference_B, beta=self.beta)

            terms["forget_npo"] = sharpness_aware(npo, step.weights, rho=self.radius)
        return terms | self.retain_terms(step)


PLUGIN = SharpnessAwareNPO
