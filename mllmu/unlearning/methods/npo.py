"""Negative preference optimisation."""

from typing import Literal

from pydantic import Field
from torch import Tensor

from mllmu.models.engine.forward import Forward
from mllmu.training.losses import answer_nll, npo_loss, row_nll_B
from mllmu.unlearning.base import PUBLISHED, AnchoredMethod, Method, Step, Terms


class NegativePreference(AnchoredMethod):
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

    source = "https://arxiv.org/abs/2404.05868"
    official = PUBLISHED | {"reduction": "token_mean", "reference": "retain_model"}
    tuned = (*Method.tuned, "beta", "retain_weight", "kl_weight")

    epochs: float = Field(2, gt=0, description="passes over the forget set")
    beta: float = Field(0.4, gt=0, description="inverse temperature, 1/nat; towards 0 it becomes gradient ascent")
    reduction: Literal["sequence_sum", "token_mean"] = Field(
        "sequence_sum", description="log p summed per reply, or the mean of all tokens of a batch (published code)"
    )
    retain_weight: float = Field(0.0, ge=0, description="weight of the nll of the retain replies (GDR)")
    kl_weight: float = Field(0.0, ge=0, description="weight of KL(reference || current) on retain (KLR)")

    def forget_terms(self, step: Step) -> Terms:
        policy_logp_B, reference_logp_B = self._logp_B(step.forget.current), self._logp_B(step.forget.reference)
        return {"forget_npo": npo_loss(policy_logp_B, reference_logp_B, beta=self.beta)}

    def _logp_B(self, forward: Forward) -> Tensor:
        """[B] summed per reply; or [1], the mean of all tokens of the batch."""
        return -row_nll_B(forward) if self.reduction == "sequence_sum" else -answer_nll(forward)[None]


PLUGIN = NegativePreference
