"""Saliency unlearning."""

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from mllmu.training.losses import answer_nll
from mllmu.unlearning.alternatives import AnsweringWrongly
from mllmu.unlearning.base import Method, RetainingMethod, Step, Terms
from mllmu.unlearning.methods.npo import npo_loss
from mllmu.unlearning.probing import Saliency


class SaliencyUnlearning(AnsweringWrongly, RetainingMethod):
    """Change only the weights that the forget loss depends on most, with any forgetting loss.

    mask = the ``share`` of weights with the largest |d nll(forget) / dw| at the start; the others never change.
    L = forget loss + retain_weight * nll(retain); forget loss: nll of wrong replies ("relabel", as in the paper: those
    of other people to the same question, as in ``altpo``), -nll ("ga"), or that of ``npo`` with beta 0.1.

    With adapters A, B only B has a gradient at the start, so the share is of B, and A stays as it was drawn.

    Cost: before training 1 forward and backward pass over the whole forget set; a step: 1 forward and backward pass on
    forget and 1 on retain, and for "npo" 1 extra forward (reference) on forget. Memory: one boolean mask and, while
    it is made, one more copy of the trained weights in float32.
    Made for: image classifiers and diffusion models.
    """

    source = "https://arxiv.org/abs/2310.12508"
    uses_reference = True
    tuned = (*Method.tuned, "share", "retain_weight")

    epochs: float = Field(5, gt=0, le=10_000, description="passes over the forget set")
    share: float = Field(0.5, gt=0, le=1, description="share of the weights with a gradient that may change")
    forget_loss: Literal["relabel", "ga", "npo"] = Field("relabel", description="how the chosen weights forget")

    def masks(self, saliency: Saliency) -> list[Tensor]:
        return largest([gradient.abs() for gradient in saliency.gradient("forget")], self.share)

    def forget_terms(self, step: Step) -> Terms:
        forget = step.forget
        if self.forget_loss == "relabel":
            return {"forget_relabel": answer_nll(forget.alternative)}
        if self.forget_loss == "ga":
            return {"forget_ga": -answer_nll(forget.current)}
        return {"forget_npo": npo_loss(forget.current.row_logp_B, forget.reference.row_logp_B, beta=0.1)}


def largest(scores: Sequence[Tensor], share: float) -> list[Tensor]:
    """Boolean masks of the largest of all positive scores; zero scores are never among them.

    The k largest are taken over all tensors together, k = share * number of positive scores, rounded, at least 1;
    ties with the k-th are all in.
    """
    positive = torch.cat([score[score > 0].flatten() for score in scores])
    if not len(positive):
        return [torch.zeros_like(score, dtype=torch.bool) for score in scores]
    number = max(1, round(share * len(positive)))
    threshold = positive.kthvalue(len(positive) - number + 1).values
    return [score >= threshold for score in scores]
