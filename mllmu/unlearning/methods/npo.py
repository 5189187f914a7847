"""Negative preference optimisation."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from mllmu.models.engine.forward import Forward
from mllmu.training.losses import answer_nll, kl_to_reference, npo_loss, row_nll_B
from mllmu.unlearning.base import PUBLISHED, Method, Step


class NegativePreference(Method):
    """Make the forget replies less likely than under the reference, and slow down once they are.

    L = (2 / beta) * mean over replies of softplus(beta * (log p - log p_ref))
        + retain_weight * nll(retain) + kl_weight * mean over retain tokens of KL(reference || current)

    log p sums over the tokens of a reply. Both weights 0 is plain NPO, ``retain_weight`` adds gradient descent on
    retain (GDR), ``kl_weight`` the divergence (KLR; both after arXiv:2407.06460).

    Cost of a step: 1 forward and backward pass and 1 extra forward (reference) on forget; with a weight 1 forward
    and backward pass on retain, with ``kl_weight`` 1 extra forward there.
    Published code: the mean of *all* tokens of the batch inside the softplus (one number, not one per reply), a
    reference trained on retain only, and what is said of gradient ascent; ``compat: official`` reproduces that.
    Made for: text.
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2404.05868"
    official: ClassVar[dict[str, Any]] = {**PUBLISHED, "reduction": "token_mean", "reference": "retain_model"}
    uses_reference: ClassVar[bool] = True
    tuned: ClassVar[tuple[str, ...]] = (*Method.tuned, "beta", "retain_weight", "kl_weight")

    epochs: float = Field(2, gt=0, description="passes over the forget set")
    beta: float = Field(0.4, gt=0, description="inverse temperature, 1/nat; towards 0 it becomes gradient ascent")
    reduction: Literal["sequence_sum", "token_mean"] = Field(
        "sequence_sum", description="log p summed per reply, or the mean of all tokens of a batch (published code)"
    )
    retain_weight: float = Field(0.0, ge=0, description="weight of the nll of the retain replies (GDR)")
    kl_weight: float = Field(0.0, ge=0, description="weight of KL(reference || current) on retain (KLR)")

    @property
    def uses_retain(self) -> bool:
        return self.retain_weight > 0 or self.kl_weight > 0

    def loss(self, step: Step) -> dict[str, Tensor]:
        terms = {}
        if step.on_forget:
            policy_logp_B, reference_logp_B = self._logp_B(step.forget.current), self._logp_B(step.forget.reference)
            terms["forget_npo"] = npo_loss(policy_logp_B, reference_logp_B, beta=self.beta)
        if step.on_retain and self.retain_weight:
            terms["retain_nll"] = self.retain_weight * answer_nll(step.retain.current)
        if step.on_retain and self.kl_weight:
            kl = kl_to_reference(step.retain.current.logits_NV, step.retain.reference.logits_NV)
            terms["retain_kl"] = self.kl_weight * kl
        return terms

    def _logp_B(self, forward: Forward) -> Tensor:
        """[B] summed per reply; or [1], the mean of all tokens of the batch."""
        return -row_nll_B(forward) if self.reduction == "sequence_sum" else -answer_nll(forward)[None]


PLUGIN = NegativePreference
