"""Primal-dual unlearning."""

from pydantic import Field
from torch import Tensor

from mllmu.training.losses import answer_nll
from mllmu.unlearning.base import Method, Step, Terms

DUAL = "dual"


class PrimalDual(Method):
    """Flatten the forget predictions under a hard limit on the retain loss.

    L = mean over forget tokens of (max logit - mean logit)^2 + dual * (nll(retain) - limit)
    after each step: dual = max(0, dual + dual_rate * (nll(retain) - limit)), once the warm-up is over

    The weight of retain grows while it is worse than the limit and falls to nothing while it is better. The limit
    decides: take the target's own nll on retain, or a little more.

    Cost of a step: 1 forward and backward pass on forget and 1 on retain; no reference. The dual variable is kept in
    checkpoints.
    Made for: text. Limit, rate, first weight and warm-up (5 of 10 epochs) are those of the authors' TOFU runs.
    """

    source = "https://arxiv.org/abs/2506.05314"
    tuned = (*Method.tuned, "limit", "dual_rate")

    epochs: float = Field(10, gt=0, le=10_000, description="passes over the forget set")
    learning_rate: float = Field(1e-5, gt=0, le=100)
    limit: float = Field(
        0.3, ge=0, le=10**6, description="nll of the retain replies that is allowed, in nats per token"
    )
    dual_rate: float = Field(5.0, ge=0, le=10**6, description="how fast the weight of retain adapts; 0 keeps it")
    first_dual: float = Field(100.0, ge=0, le=10**6, description="weight of retain at the first step")
    dual_warmup: float = Field(0.5, ge=0, le=1, description="share of the steps during which that weight stays")

    @property
    def uses_retain(self) -> bool:
        return True

    def forget_terms(self, step: Step) -> Terms:
        return {"forget_flatness": flattening_loss(step.forget.current.logits_NV)}

    def retain_terms(self, step: Step) -> Terms:
        dual = step.memory.get(DUAL, self.first_dual)
        over = answer_nll(step.retain.current) - self.limit
        if step.done >= self.dual_warmup:
            step.memory[DUAL] = max(0.0, dual + self.dual_rate * over.item())
        return {"retain_limit": dual * over}


def flattening_loss(logits_NV: Tensor) -> Tensor:
    """How far the best word stands out; lower means flatter, 0 is the uniform distribution.

    L = mean_N[ (max_V z - mean_V z)^2 ]

    Args:
        logits_NV: [N, V] of the trained model at the forget tokens.

    Returns:
        Scalar, >= 0, in squared logits. Logits (3, 0, 0) give (3 - 1)^2 = 4.

    Source: PDU, arXiv:2506.05314.
    """
    return (logits_NV.amax(-1) - logits_NV.mean(-1)).square().mean()
