"""An unlearning method in one file; run it from the repository with

PYTHONPATH=examples mllmu run recipes/smoke.yaml --set 'unlearn.methods=[ga, "my_method:Unlikelihood"]'
"""

from pydantic import Field
from torch import Tensor

from mllmu import RetainingMethod, Step


class Unlikelihood(RetainingMethod):
    """Push the probability of each forget token down until it is 0, and train retain as before.

    L = forget_weight * mean over forget tokens of -log(1 - p(token)) + retain_weight * nll(retain)

    Both terms are >= 0 and end at 0 (p = 1/2 gives ln 2), so nothing runs away as in gradient ascent.

    Cost of a step: 1 forward and backward pass on forget and 1 on retain; no reference.
    Made for: text.
    """

    source = "https://arxiv.org/abs/1908.04319"

    epochs: float = Field(3, gt=0, description="passes over the forget set")
    forget_weight: float = Field(1.0, gt=0)

    def forget_terms(self, step: Step) -> dict[str, Tensor]:
        return {"forget_unlikelihood": self.forget_weight * self._unlikelihood(step)}

    def _unlikelihood(self, step: Step) -> Tensor:
        logits_NV, labels_N = step.forget.current.logits_NV, step.forget.current.labels_N
        # log(1 - p) from the other tokens: written as 1 - p it would have no gradient where p rounds to 1
        others_NV = logits_NV.scatter(1, labels_N[:, None], float("-inf"))
        return (logits_NV.logsumexp(-1) - others_NV.logsumexp(-1)).mean()
