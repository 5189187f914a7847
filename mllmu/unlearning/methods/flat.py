"""Forget data only, loss adjustment."""

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from mllmu.models.engine.forward import Forward
from mllmu.training.losses import LN2
from mllmu.unlearning.alternatives import Refusing
from mllmu.unlearning.base import Method, Step, Terms

Divergence = Literal["tv", "kl", "js", "pearson"]


class LossAdjustment(Refusing, Method):
    """Drive refusal and true reply apart by an f-divergence; needs neither retain data nor a reference.

    L = mean over questions of -g(P(refusal)) + f*(g(P(true reply))),  P = mean over the reply's tokens of p(token);
    g and f* belong to the divergence, see :func:`flat_loss`. Bounded, because P is.

    Cost of a step: 2 forward and backward passes on forget (refusal and true reply).
    Made for: text. The paper compares the four divergences; none wins everywhere.
    """

    source = "https://arxiv.org/abs/2410.11143"

    epochs: float = Field(5, gt=0, le=10_000, description="passes over the forget set")
    divergence: Divergence = Field("tv", description="total variation, Kullback-Leibler, Jensen-Shannon, or Pearson")

    def forget_terms(self, step: Step) -> Terms:
        forget = step.forget
        return {"forget_flat": flat_loss(forget.alternative, forget.current, divergence=self.divergence)}


def flat_loss(wanted: Forward, unwanted: Forward, *, divergence: Divergence) -> Tensor:
    """f-divergence between a wanted and the unwanted reply, in its variational form; lower means further apart.

    L = mean_B[ -g(P_wanted) + f*(g(P_unwanted)) ],  P_b = mean over the tokens of reply b of p(token)

        tv       g(v) = tanh(v) / 2                 f*(u) = u
        kl       g(v) = v                           f*(u) = exp(u - 1)
        js       g(v) = ln 2 - softplus(-v)         f*(u) = -ln(2 - exp(u))
        pearson  g(v) = v                           f*(u) = u^2 / 4 + u

    Args:
        wanted, unwanted: passes over the same questions with the wanted replies and with those to forget.

    Returns:
        Scalar without unit. For "tv" in [-0.381, 0.381]: both probabilities 1/2 give 0; 1 and 0 give -tanh(1) / 2.

    Source: FLAT, arXiv:2410.11143.
    """
    g, conjugate = _VARIATIONAL[divergence]
    return (conjugate(g(mean_probability_B(unwanted))) - g(mean_probability_B(wanted))).mean()


_VARIATIONAL: dict[Divergence, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "tv": (lambda v: v.tanh() / 2, lambda u: u),
    "kl": (lambda v: v, lambda u: (u - 1).exp()),
    "js": (lambda v: LN2 - F.softplus(-v), lambda u: -(2 - u.exp()).log()),
    "pearson": (lambda v: v, lambda u: u.square() / 4 + u),
}


def mean_probability_B(forward: Forward) -> Tensor:
    """[B] mean over the tokens of each reply of p(token), in [0, 1]."""
    p_N = forward.token_logp_N.exp()
    return torch.zeros(forward.num_rows, device=p_N.device).index_add(0, forward.row_N, p_N) / forward.row_length_B
