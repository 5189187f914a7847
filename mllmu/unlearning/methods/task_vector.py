"""Task-vector negation."""

from pydantic import Field

from mllmu.training.losses import answer_nll
from mllmu.unlearning.base import Method, Step, Terms


class TaskVector(Method):
    """Learn the forget set even better, then go the same way backwards from where one started.

    train: L = nll(forget), from the target to w_learned;  then w = w_target - strength * (w_learned - w_target)

    With adapters A, B the learned change is B A, so B alone is multiplied by -strength. What the set shares with
    others, the language of the replies for one, is taken away too: try several strengths.

    Cost of a step: 1 forward and backward pass on forget; no retain data, no reference. Without adapters a copy of
    the trained weights is kept meanwhile.
    Made for: text and image classifiers; strength 1 is the default of MUSE (arXiv:2407.06460), which scans it.
    """

    source = "https://arxiv.org/abs/2212.04089"
    tuned = (*Method.tuned, "strength")

    epochs: float = Field(5, gt=0, le=10_000, description="passes over the forget set")
    strength: float = Field(
        1.0, gt=0, le=10**6, description="how far to go backwards, in lengths of the learned change"
    )

    @property
    def kept_change(self) -> float:
        return -self.strength

    def forget_terms(self, step: Step) -> Terms:
        return {"forget_nll": answer_nll(step.forget.current)}
