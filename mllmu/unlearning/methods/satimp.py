"""Gradient ascent weighted by saturation and importance."""

from pydantic import Field

from mllmu.training.losses import weighted_ascent
from mllmu.unlearning.base import Method, RetainingMethod, Step, Terms


class SaturationImportance(RetainingMethod):
    """Gradient ascent in which tokens count that are likely but not certain.

    L = -forget_weight * mean over forget tokens of p^known * (1 - p)^unknown * -log p + retain_weight * nll(retain);
    p is constant in the weight.

    A token learned by heart (p near 1) barely counts at first, so memorised replies start slowly.

    Cost of a step: 1 forward and backward pass on forget and 1 on retain; no reference.
    Made for: text.
    """

    source = "https://arxiv.org/abs/2505.11953"
    tuned = (*Method.tuned, "known", "unknown", "retain_weight")

    epochs: float = Field(5, gt=0, le=10_000, description="passes over the forget set")
    learning_rate: float = Field(1e-5, gt=0, le=100)
    known: float = Field(
        5.0, ge=0, le=10**6, description="exponent of p (saturation: leave alone what is already unlikely)"
    )
    unknown: float = Field(
        1.0, ge=0, le=10**6, description="exponent of 1 - p (importance: leave alone what any text would say)"
    )
    forget_weight: float = Field(0.1, gt=0, le=10**6, description="weight of the term on forget")

    def forget_terms(self, step: Step) -> Terms:
        ascent = weighted_ascent(step.forget.current, known=self.known, unknown=self.unknown)
        return {"forget_ascent": self.forget_weight * ascent}
