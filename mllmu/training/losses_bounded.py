"""Losses that stop pushing by themselves: weighted by what is still known, or with a target that can be reached.

See :mod:`mllmu.training.losses` for shapes and units.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from mllmu.models.engine.forward import Forward
from mllmu.training.losses import answer_nll

LN2 = 0.6931471805599453
Divergence = Literal["tv", "kl", "js", "pearson"]


def weighted_ascent(forward: Forward, *, known: float, unknown: float = 0.0) -> Tensor:
    """Gradient ascent with a weight for each token; lower means the replies are less likely.

    L = -mean_N[ p^known * (1 - p)^unknown * -log p ],  p = p(token), constant in the weight

    Args:
        forward: one pass over the forget replies; the mean is over all their tokens.
        known: exponent >= 0; larger leaves tokens alone that are already unlikely.
        unknown: exponent >= 0; larger leaves tokens alone that are still certain.

    Returns:
        Scalar in nats a token, <= 0. Tokens with p = 1/2 and 1/4, known 1 and unknown 0, give
        -(ln 2 / 2 + 2 ln 2 / 4) / 2 = -ln(2) / 2 = -0.347. Both exponents 0 is plain gradient ascent.

    Source: WGA, arXiv:2502.19301 (known); SatImp, arXiv:2505.11953 (both).
    """
    answer_nll(forward)  # refuses a batch without tokens
    p_N = forward.token_logp_N.detach().exp()
    weight_N = p_N**known * (1 - p_N).clamp(min=0) ** unknown
    return (weight_N * forward.token_logp_N).mean()


def undial_loss(forward: Forward, reference_logits_NV: Tensor, *, strength: float) -> Tensor:
    """Self-distillation towards the reference with the trained token held down; lower means closer to that.

    L = mean_N[ -sum_V q * log p ],  q = softmax(reference logits - strength * onehot(token))

    Args:
        forward: one pass over the forget replies.
        reference_logits_NV: [N, V] at the same tokens; no gradient flows into them.
        strength: what the token's logit is lowered by, >= 0.

    Returns:
        Scalar in nats a token, >= the entropy of q. Reference logits (ln 2, 0), first token trained, strength ln 2
        make q = (1/2, 1/2); a model with p = (1/2, 1/2) has the least loss, ln 2.

    Source: Dong et al. 2024, arXiv:2402.10052.
    """
    lowered_NV = reference_logits_NV.detach().scatter_add(
        1, forward.labels_N[:, None], torch.full_like(reference_logits_NV[:, :1], -strength)
    )
    return F.cross_entropy(forward.logits_NV, lowered_NV.softmax(-1))


def ce_u_loss(forward: Forward, *, skip: int) -> Tensor:
    """Cross-entropy with what the model itself would say if the trained token did not exist.

    L = mean over counted tokens of -sum_V q * log p,  q = softmax(logits with the token at -inf), constant

    The gradient vanishes as the token's probability does.

    Args:
        forward: one pass over the forget replies.
        skip: so many tokens at the beginning of each reply are not counted.

    Returns:
        Scalar in nats a counted token, >= 0; 0 if nothing is counted. p = (1/2, 1/4, 1/4), first token trained:
        q = (0, 1/2, 1/2), L = 2 ln 2 = 1.386.

    Source: CE-U, arXiv:2503.01224.
    """
    counted_N = (place_in_row_N(forward) >= skip).float()
    blocked_NV = forward.logits_NV.detach().scatter(1, forward.labels_N[:, None], float("-inf"))
    # 0 * log p stays 0: log p is finite wherever logits are
    loss_N = -(blocked_NV.softmax(-1) * forward.logits_NV.log_softmax(-1)).sum(-1)
    return (loss_N * counted_N).sum() / counted_N.sum().clamp(min=1)


def place_in_row_N(forward: Forward) -> Tensor:
    """[N] place of each token in its reply, from 0; the tokens of a reply lie side by side, packed or not."""
    count_N = torch.arange(len(forward.row_N), device=forward.row_N.device)
    first_B = torch.full((forward.num_rows,), len(forward.row_N), device=forward.row_N.device)
    return count_N - first_B.scatter_reduce(0, forward.row_N, count_N, "amin")[forward.row_N]


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


def js_to_token(token_logp_N: Tensor) -> Tensor:
    """Jensen-Shannon divergence between the model and "this very token"; lower means the token is likelier.

    L = mean_N[ (ln(2 / (1 + p)) + p ln(2p / (1 + p)) + (1 - p) ln 2) / 2 ],  p = p(token)

    Only p matters: the other words meet an empty place, each p_j ln(p_j / (p_j / 2)), together (1 - p) ln 2.

    Args:
        token_logp_N: [N] log p(token) in nats.

    Returns:
        Scalar in nats, in [0, ln 2]: 0 at p = 1, ln 2 at p = 0; p = 1/2 gives 0.216.

    Source: JensUn, arXiv:2509.02820.
    """
    p_N = token_logp_N.exp()
    middle_N = torch.log1p(p_N)
    return (LN2 - middle_N + p_N * (token_logp_N - middle_N) + LN2).mean() / 2


def js_to_reference(current_logits_NV: Tensor, reference_logits_NV: Tensor) -> Tensor:
    """Jensen-Shannon divergence from the reference; lower means the model still predicts the same words.

    L = mean_N[ (KL(p || m) + KL(p_ref || m)) / 2 ],  m = (p + p_ref) / 2

    Args:
        current_logits_NV: [N, V] of the trained model.
        reference_logits_NV: [N, V] the same tokens under the frozen reference; no gradient flows into them.

    Returns:
        Scalar in nats a token, in [0, ln 2]. p = (1, 0) and p_ref = (1/2, 1/2) give 0.216.

    Source: JensUn, arXiv:2509.02820.
    """
    logp_NV, reference_NV = current_logits_NV.log_softmax(-1), reference_logits_NV.detach().log_softmax(-1)
    middle_NV = torch.logaddexp(logp_NV, reference_NV) - LN2
    parts_N2 = [(one.exp() * (one - middle_NV)).sum(-1) for one in (logp_NV, reference_NV)]
    return (parts_N2[0] + parts_N2[1]).mean() / 2


def distance_B(forward: Forward, level_B: Tensor) -> Tensor:
    """[B] how far the likelihood of each reply is from a level, per token, above or below; smooth around 0.

    distance_b = h(logp_b / length_b - level_b),  h(d) = d^2 / 2 where |d| < 1, |d| - 1/2 elsewhere (Huber)

    Args:
        forward: one pass over the forget replies.
        level_B: [B] (or [1]) mean log p of a token, in nats, <= 0; no gradient flows into it.

    Returns:
        [B] in nats a token, >= 0. Tokens with p = 1/2 and 1/8 (mean -2 ln 2): level -3 ln 2 is ln 2 away, 0.240;
        level -5 ln 2 is 3 ln 2 away, 1.579.

    Source: ours.
    """
    return F.huber_loss(
        forward.row_logp_B / forward.row_length_B,
        level_B.detach().expand_as(forward.row_logp_B),
        reduction="none",
        delta=1.0,
    )
