"""KL minimisation."""

from typing import Literal

from pydantic import Field

from mllmu.training.losses import answer_nll, kl_batchmean_published, kl_to_reference
from mllmu.unlearning.base import PUBLISHED, RetainingMethod, Step, Terms


class KLMinimization(RetainingMethod):
    """Gradient ascent on forget while the predictions on retain stay those of the reference.

    L = -nll(forget) + retain_weight * mean over retain tokens of KL(reference || current); unbounded below.

    Cost of a step: 1 forward and backward pass on forget and 1 on retain, and 1 extra forward on retain (reference).
    Published code: two phases, prompt in the loss, KL summed over positions (padding too, which is not reproduced),
    and an additional cross-entropy on retain, beside what is said of gradient ascent; ``compat: official`` reproduces
    that.
    Made for: text.
    """

    source = "https://arxiv.org/abs/2401.06121"
    official = PUBLISHED | {"schedule": "two_phase", "decay": "none", "reduction": "batchmean", "add_ce": True}
    uses_reference = True

    epochs: float = Field(3, gt=0, le=10_000, description="passes over the forget set")
    retain_weight: float = Field(1.0, gt=0, le=10**6, description="weight of the KL term")
    reduction: Literal["token_mean", "batchmean"] = "token_mean"
    """'batchmean' sums the KL over positions and divides by rows, as the published code"""
    add_ce: bool = Field(False, description="also train on the retain replies (weight 1), as the published code")

    def forget_terms(self, step: Step) -> Terms:
        return {"forget_ascent": -answer_nll(step.forget.current)}

    def retain_terms(self, step: Step) -> Terms:
        current, reference = step.retain.current, step.retain.reference
        if self.reduction == "token_mean":
            kl = kl_to_reference(current.logits_NV, reference.logits_NV)
        else:
            kl = kl_batchmean_published(current.logits_NV, reference.logits_NV, num_rows=current.num_rows)
        terms = {"retain_kl": self.retain_weight * kl}
        return terms | {"retain_nll": answer_nll(current)} if self.add_ce else terms
