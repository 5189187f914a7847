"""Simple negative preference optimisation."""

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from mllmu.models.engine.forward import Forward
from mllmu.unlearning.base import Method, RetainingMethod, Step, Terms


class SimpleNegativePreference(RetainingMethod):
    """NPO without a reference: replies are compared by their likelihood per token with a fixed margin.

    L = forget_weight * (2 / beta) * mean over replies of softplus(-beta * (nll / length - margin))
        + retain_weight * nll(retain)

    Long and short replies count alike, and replies that are already unlikely no longer push.

    Cost of a step: 1 forward and backward pass on forget and 1 on retain; no reference.
    Made for: text. beta 4.5, margin 0 and weight 0.125 are the paper's for TOFU.
    """

    source = "https://arxiv.org/abs/2410.07163"
    tuned = (*Method.tuned, "beta", "forget_weight", "retain_weight")

    epochs: float = Field(10, gt=0, le=10_000, description="passes over the forget set")
    learning_rate: float = Field(1e-5, gt=0, le=100)
    beta: float = Field(4.5, gt=0, le=10**6, description="1/nat; larger stops sooner once a reply is unlikely")
    margin: float = Field(0.0, ge=0, le=10**6, description="nats per token that a reply should at least cost")
    forget_weight: float = Field(0.125, gt=0, le=10**6, description="weight of the term on forget")

    def forget_terms(self, step: Step) -> Terms:
        loss = simnpo_loss(step.forget.current, beta=self.beta, margin=self.margin)
        return {"forget_simnpo": self.forget_weight * loss}


def simnpo_loss(forward: Forward, *, beta: float, margin: float) -> Tensor:
    """Negative preference without a reference; lower means the replies are less likely per token.

    L = (2 / beta) * mean_B[ softplus(-beta * (nll_b / length_b - margin)) ]

    Args:
        forward: one pass over the forget replies; the nll is *averaged* within a reply, then over the replies.
        beta: 1/nat, > 0.
        margin: in nats per token; the loss is steep below it and flat above.

    Returns:
        Scalar in nats, > 0; 2 ln(2) / beta where every reply has nll = margin. Replies of ln 2 nats per token with
        beta 2 and margin 0 give ln(1 + 1/4) = 0.223.

    Source: Fan et al. 2024, arXiv:2410.07163.
    """
    return F.softplus(-beta * (-forward.mean_logp_B - margin)).mean() * (2 / beta)
