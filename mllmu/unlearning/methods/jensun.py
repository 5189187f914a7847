"""Unlearning by the Jensen-Shannon divergence."""

import random
from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from mllmu.models.families import Turn
from mllmu.training.losses import LN2
from mllmu.unlearning.base import RetainingMethod, Step, Terms


class JensenShannon(RetainingMethod):
    """Go towards a refusal and stay at the reference, both by a divergence that cannot exceed ln 2.

    L = forget_weight * mean over refusal tokens of JS(model, onehot(token))
        + retain_weight * mean over retain tokens of JS(model, reference)

    Unlike the nll of ``idk`` the pull is weak where the refusal is still very unlikely: it begins slowly and cannot
    run away. Published code puts the refusal's tokens, repeated, at the positions of the true reply; here they follow
    each other as they would be said, so the model can say them.

    Cost of a step: 1 forward and backward pass on forget and 1 on retain, and 1 extra forward on retain (reference).
    Made for: text. The refusal is the paper's.
    """

    source = "https://arxiv.org/abs/2509.02820"
    uses_reference = True

    epochs: float = Field(10, gt=0, le=10_000, description="passes over the forget set")
    learning_rate: float = Field(1e-5, gt=0, le=100)
    refusal: str = Field("No idea", min_length=1, description="what to say instead of the private fact")
    forget_weight: float = Field(1.0, gt=0, le=10**6, description="weight of the term on forget")
    retain_weight: float = Field(1.0, gt=0, le=10**6, description="weight of the term on retain")

    def forget_terms(self, step: Step) -> Terms:
        return {"forget_js": self.forget_weight * js_to_token(step.forget.alternative.token_logp_N)}

    def retain_terms(self, step: Step) -> Terms:
        retain = step.retain
        return {"retain_js": self.retain_weight * js_to_reference(retain.current.logits_NV, retain.reference.logits_NV)}

    def alternative(self, turn: Turn, others: Sequence[Turn], draw: random.Random) -> str:
        return self.refusal


def js_to_token(token_logp_N: Tensor) -> Tensor:
    """Jensen-Shannon divergence between the model and "this very token"; lower means the token is likelier.

    L = mean_N[ (ln(2 / (1 + p)) + p ln(2p / (1 + p)) + (1 - p) ln 2) / 2 ],  p = p(token)

    Only p matters: the other words, with probability 0 in the target, give p_j ln(p_j / (p_j / 2)) each, together
    (1 - p) ln 2.

    Args:
        token_logp_N: [N] log p(token) in nats.

    Returns:
        Scalar in nats, in [0, ln 2]: 0 at p = 1, ln 2 at p = 0; p = 1/2 gives 0.216.

    Source: JensUn, arXiv:2509.02820.
    """
    p_N = token_logp_N.exp()
    middle_N = torch.log1p(p_N)
    return (LN2 - middle_N + p_N * (token_logp_N - middle_N) + LN2).mean() / 2


def js_to_reference(current_logits_NV: Tensor, reference_logits_NV: Tensor) -> Tensor:
    """Jensen-Shannon divergence from the reference; lower means the model still predicts the same words.

    L = mean_N[ (KL(p || m) + KL(p_ref || m)) / 2 ],  m = (p + p_ref) / 2

    Args:
        current_logits_NV: [N, V] of the trained model.
        reference_logits_NV: [N, V] the same tokens under the frozen reference; no gradient flows into them.

    Returns:
        Scalar in nats per token, in [0, ln 2]. p = (1, 0) and p_ref = (1/2, 1/2) give 0.216.

    Source: JensUn, arXiv:2509.02820.
    """
    logp_NV, reference_NV = current_logits_NV.log_softmax(-1), reference_logits_NV.detach().log_softmax(-1)
    middle_NV = torch.logaddexp(logp_NV, reference_NV) - LN2
    parts_N2 = [(one.exp() * (one - middle_NV)).sum(-1) for one in (logp_NV, reference_NV)]
    return (parts_N2[0] + parts_N2[1]).mean() / 2
