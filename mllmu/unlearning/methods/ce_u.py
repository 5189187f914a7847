"""Cross-entropy unlearning."""

import torch
from pydantic import Field
from torch import Tensor

from mllmu.models.engine.forward import Forward
from mllmu.unlearning.base import RetainingMethod, Step, Terms


class CrossEntropyUnlearning(RetainingMethod):
    """Say what the model would say if the true token did not exist; no reference and no ascent.

    L = mean over forget tokens of -sum over words of q * log p + retain_weight * nll(retain),
    q = softmax(own logits with the true token at -inf), held constant

    Cost of a step: 1 forward and backward pass on forget; with ``retain_weight`` 1 on retain.
    Made for: text. The paper trains on forget alone. A model that unlearns the end of short replies forgets how to
    stop, so ``train_end`` is off here.
    """

    source = "https://arxiv.org/abs/2503.01224"

    epochs: float = Field(5, gt=0, le=10_000, description="passes over the forget set")
    learning_rate: float = Field(1e-5, gt=0, le=100)
    train_end: bool = False
    skip: int = Field(
        1, ge=0, le=1000, description="tokens at the beginning of a reply that are left alone; its last one never is"
    )
    retain_weight: float = Field(
        0.0, ge=0, le=10**6, description="weight of the nll of the retain replies; 0 leaves them out"
    )

    def forget_terms(self, step: Step) -> Terms:
        return {"forget_ce_u": ce_u_loss(step.forget.current, skip=self.skip)}


def ce_u_loss(forward: Forward, *, skip: int) -> Tensor:
    """Cross-entropy with what the model itself would say if the trained token did not exist.

    L = mean over counted tokens of -sum_V q * log p,  q = softmax(logits with the token at -inf), constant

    The gradient vanishes as the token's probability does.

    Args:
        forward: one pass over the forget replies.
        skip: so many tokens at the beginning of each reply are not counted, but never all of them.

    Returns:
        Scalar in nats per counted token, >= 0; 0 if nothing is counted. p = (1/2, 1/4, 1/4), first token trained:
        q = (0, 1/2, 1/2), L = 2 ln 2 = 1.386.

    Source: CE-U, arXiv:2503.01224.
    """
    index_N = index_in_row_N(forward)
    last_B = torch.zeros(forward.num_rows, dtype=index_N.dtype, device=index_N.device)
    last_B = last_B.scatter_reduce(0, forward.row_N, index_N, "amax")
    counted_N = (index_N >= last_B.clamp(max=skip)[forward.row_N]).float()
    blocked_NV = forward.logits_NV.detach().scatter(1, forward.labels_N[:, None], float("-inf"))
    # 0 * log p stays 0: log p is finite wherever logits are
    loss_N = -(blocked_NV.softmax(-1) * forward.logits_NV.log_softmax(-1)).sum(-1)
    return (loss_N * counted_N).sum() / counted_N.sum().clamp(min=1)


def index_in_row_N(forward: Forward) -> Tensor:
    """[N] index of each token in its reply, from 0; the tokens of a reply lie side by side, packed or not."""
    count_N = torch.arange(len(forward.row_N), device=forward.row_N.device)
    first_B = torch.full((forward.num_rows,), len(forward.row_N), device=forward.row_N.device)
    return count_N - first_B.scatter_reduce(0, forward.row_N, count_N, "amin")[forward.row_N]
