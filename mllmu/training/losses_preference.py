"""Losses that prefer one reply over another, or none; see :mod:`mllmu.training.losses` for shapes and units."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from mllmu.models.engine.forward import Forward
from mllmu.training.losses import row_nll_B


def dpo_loss(
    wanted_B: Tensor, wanted_reference_B: Tensor, unwanted_B: Tensor, unwanted_reference_B: Tensor, *, beta: float
) -> Tensor:
    """Direct preference optimisation; lower means the wanted reply has gained more on the unwanted one.

    L = (2 / beta) * mean_B[ softplus(-beta * ((wanted - wanted_ref) - (unwanted - unwanted_ref))) ]

    Args:
        wanted_B, unwanted_B: [B] log p(reply | question) of the trained model in nats, summed over the reply's tokens.
        wanted_reference_B, unwanted_reference_B: [B] the same under the frozen reference; no gradient flows into them.
        beta: inverse temperature in 1/nat, > 0.

    Returns:
        Scalar in nats, > 0; 2 ln(2) / beta at the reference. The factor 2 / beta is that of the negative part alone
        (:func:`mllmu.training.losses.npo_loss`), so that their values compare. Gains of 1 and -1 nat with beta 0.5
        give 4 * ln(1 + 1/e) = 1.253.

    Source: Rafailov et al. 2023, arXiv:2305.18290; for unlearning arXiv:2401.06121.
    """
    gain_B = (wanted_B - wanted_reference_B.detach()) - (unwanted_B - unwanted_reference_B.detach())
    return F.softplus(-beta * gain_B).mean() * (2 / beta)


def simnpo_loss(forward: Forward, *, beta: float, margin: float) -> Tensor:
    """Negative preference without a reference; lower means the replies are less likely per token.

    L = (2 / beta) * mean_B[ softplus(-beta * (nll_b / length_b - margin)) ]

    Args:
        forward: one pass over the forget replies; the nll is *averaged* within a reply, then over the replies.
        beta: 1/nat, > 0.
        margin: in nats a token; the loss is steep below it and flat above.

    Returns:
        Scalar in nats, > 0; 2 ln(2) / beta where every reply has nll = margin. Replies of ln 2 nats a token with
        beta 2 and margin 0 give ln(1 + 1/4) = 0.223.

    Source: Fan et al. 2024, arXiv:2410.07163.
    """
    mean_nll_B = row_nll_B(forward) / forward.row_length_B
    return F.softplus(-beta * (mean_nll_B - margin)).mean() * (2 / beta)
