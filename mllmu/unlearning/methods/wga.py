"""Weighted gradient ascent."""

from pydantic import Field

from mllmu.training.losses import weighted_ascent
from mllmu.unlearning.base import Method, RetainingMethod, Step, Terms


class WeightedAscent(RetainingMethod):
    """Gradient ascent in which a token counts less the less likely it already is.

    L = -forget_weight * mean over forget tokens of p^known * -log p + retain_weight * nll(retain); p is constant in
    the weight. Bounded: the pushed quantity tends to 0 with p.

    Cost of a step: 1 forward and backward pass on forget and 1 on retain; no reference.
    Made for: text.
    """

    source = "https://arxiv.org/abs/2502.19301"
    tuned = (*Method.tuned, "known", "retain_weight")

    epochs: float = Field(5, gt=0, le=10_000, description="passes over the forget set")
    learning_rate: float = Field(1e-5, gt=0, le=100)
    known: float = Field(1.0, ge=0, le=10**6, description="exponent of p in the weight; 0 is plain gradient ascent")
    forget_weight: float = Field(1.0, gt=0, le=10**6, description="weight of the term on forget")

    def forget_terms(self, step: Step) -> Terms:
        return {"forget_ascent": self.forget_weight * weighted_ascent(step.forget.current, known=self.known)}
