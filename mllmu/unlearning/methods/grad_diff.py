"""Gradient difference."""

from pydantic import Field

from mllmu.training.losses import answer_nll
from mllmu.unlearning.base import PUBLISHED, RetainingMethod, Step, Terms


class GradientDifference(RetainingMethod):
    """Gradient ascent on forget and ordinary training on retain, in the same step.

    L = -forget_weight * nll(forget) + retain_weight * nll(retain), each a mean over tokens; unbounded below.

    Cost of a step: 1 forward and backward pass on forget and 1 on retain; no reference.
    Published code: a whole ascent pass over forget, then a whole descent pass over retain, at one learning rate, and
    what is said of gradient ascent; ``compat: official`` reproduces that.
    Made for: text.
    """

    source = "https://arxiv.org/abs/2203.12817"
    official = PUBLISHED | {"schedule": "two_phase", "decay": "none"}

    forget_weight: float = Field(1.0, gt=0, le=10**6, description="weight of the term on forget")
    retain_weight: float = Field(1.0, gt=0, le=10**6, description="weight of the term on retain")

    def forget_terms(self, step: Step) -> Terms:
        return {"forget_ascent": -self.forget_weight * answer_nll(step.forget.current)}
