"""Negative preference optimisation."""

from typing import Literal

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from mllmu.models.engine.forward import Forward
from mllmu.training.losses import answer_nll
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

    epochs: float = Field(2, gt=0, le=10_000, description="passes over the forget set")
    beta: float = Field(
        0.4, gt=0, le=10**6, description="inverse temperature, 1/nat; towards 0 it becomes gradient ascent"
    )
    reduction: Literal["sequence_sum", "token_mean"] = "sequence_sum"
    """log p summed per reply, or the mean of all tokens of a batch (published code)"""
    retain_weight: float = Field(0.0, ge=0, le=10**6, description="weight of the nll of the retain replies (GDR)")
    kl_weight: float = Field(0.0, ge=0, le=10**6, description="weight of KL(reference || current) on retain (KLR)")

    def forget_terms(self, step: Step) -> Terms:
        policy_logp_B, reference_logp_B = self._logp_B(step.forget.current), self._logp_B(step.forget.reference)
        return {"forget_npo": npo_loss(policy_logp_B, reference_logp_B, beta=self.beta)}

    def _logp_B(self, forward: Forward) -> Tensor:
        """[B] summed per reply; or [1], the mean of all tokens of the batch."""
        return forward.row_logp_B if self.reduction == "sequence_sum" else -answer_nll(forward)[None]


def npo_loss(policy_logp_B: Tensor, reference_logp_B: Tensor, *, beta: float) -> Tensor:
    """Negative preference optimisation on forget replies; lower means the replies are less likely.

    L = (2 / beta) * mean_B[ softplus(beta * (policy - reference)) ]

    Unlike gradient ascent it is bounded below: a reply that is already much less likely than under the reference
    adds almost no gradient (its weight is 2 * sigmoid(beta * (policy - reference))), so training slows by itself.

    Args:
        policy_logp_B: [B] log p(reply | image, question) of the trained model in nats, summed over the reply's
            tokens (a mean would make the effect of beta depend on the length of the reply).
        reference_logp_B: [B] the same under the frozen reference; no gradient flows into it.
        beta: inverse temperature in 1/nat, > 0. As beta -> 0 the gradient tends to gradient ascent's, mean_B[policy].

    Returns:
        Scalar in nats, > 0. Equals 2 ln(2) / beta where policy == reference; policy -1, reference -3, beta 0.5 give
        4 * ln(1 + e) = 5.253.

    Source: Zhang et al. 2024, arXiv:2404.05868.
    """
    ratio_B = policy_logp_B - reference_logp_B.detach()
    return F.softplus(beta * ratio_B).mean() * (2 / beta)
