"""Unlearning by self-distillation on adjusted logits."""

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from mllmu.models.engine.forward import Forward
from mllmu.unlearning.base import Method, RetainingMethod, Step, Terms


class AdjustedDistillation(RetainingMethod):
    """Learn from the reference itself, with the logit of every forget token lowered.

    L = mean over forget tokens of -sum over words of q * log p + retain_weight * nll(retain),
    q = softmax(reference logits - strength * onehot(token))

    The goal is a fixed distribution, so training settles instead of running away.

    Cost of a step: 1 forward and backward pass and 1 extra forward (reference) on forget; with ``retain_weight`` 1
    forward and backward pass on retain.
    Made for: text. Published code also averages over prompt and padding tokens, and lowers a wrong word there; not
    reproduced.
    """

    source = "https://arxiv.org/abs/2402.10052"
    uses_reference = True
    tuned = (*Method.tuned, "strength", "retain_weight")

    epochs: float = Field(10, gt=0, le=10_000, description="passes over the forget set")
    learning_rate: float = Field(1e-4, gt=0, le=100)
    strength: float = Field(10.0, gt=0, le=10**6, description="what the logit of the trained token is lowered by")
    retain_weight: float = Field(
        0.0, ge=0, le=10**6, description="weight of the nll of the retain replies; 0 leaves them out"
    )

    def forget_terms(self, step: Step) -> Terms:
        current, reference = step.forget.current, step.forget.reference
        return {"forget_undial": undial_loss(current, reference.logits_NV, strength=self.strength)}


def undial_loss(forward: Forward, reference_logits_NV: Tensor, *, strength: float) -> Tensor:
    """Self-distillation towards the reference with the trained token held down; lower means closer to that.

    L = mean_N[ -sum_V q * log p ],  q = softmax(reference logits - strength * onehot(token))

    Args:
        forward: one pass over the forget replies.
        reference_logits_NV: [N, V] at the same tokens; no gradient flows into them.
        strength: what the token's logit is lowered by, >= 0.

    Returns:
        Scalar in nats per token, >= the entropy of q. Reference logits (ln 2, 0), first token trained, strength ln 2
        make q = (1/2, 1/2); a model with p = (1/2, 1/2) has the least loss, ln 2.

    Source: Dong et al. 2024, arXiv:2402.10052.
    """
    lowered_NV = reference_logits_NV.detach().scatter_add(
        1, forward.labels_N[:, None], torch.full_like(reference_logits_NV[:, :1], -strength)
    )
    return F.cross_entropy(forward.logits_NV, lowered_NV.softmax(-1))
