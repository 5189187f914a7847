"""Saliency unlearning."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from mllmu.models.families import Turn
from mllmu.training.losses import answer_nll, npo_loss
from mllmu.unlearning.base import Method, RetainingMethod, Step
from mllmu.unlearning.refusals import REFUSALS
from mllmu.unlearning.saliency import Saliency, largest


class SaliencyUnlearning(RetainingMethod):
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

    source: ClassVar[str] = "https://arxiv.org/abs/2310.12508"
    uses_reference: ClassVar[bool] = True
    tuned: ClassVar[tuple[str, ...]] = (*Method.tuned, "share", "retain_weight")

    epochs: float = Field(5, gt=0, description="passes over the forget set")
    share: float = Field(0.5, gt=0, le=1, description="share of the weights with a gradient that may change")
    forget_loss: Literal["relabel", "ga", "npo"] = Field("relabel", description="how the chosen weights forget")

    def masks(self, saliency: Saliency) -> list[Tensor]:
        return largest([gradient.abs() for gradient in saliency.gradient("forget")], self.share)

    def loss(self, step: Step) -> dict[str, Tensor]:
        terms = {f"forget_{self.forget_loss}": self._forget(step)} if step.on_forget else {}
        return terms | self.retain_terms(step)

    def _forget(self, step: Step) -> Tensor:
        forget = step.forget
        if self.forget_loss == "relabel":
            return answer_nll(forget.alternative)
        if self.forget_loss == "ga":
            return -answer_nll(forget.current)
        return npo_loss(forget.current.row_logp_B, forget.reference.row_logp_B, beta=0.1)

    def alternative(self, turn: Turn, others: Sequence[Turn], draw: random.Random) -> str:
        del turn
        return draw.choice(others).reply if others else draw.choice(REFUSALS)


PLUGIN = SaliencyUnlearning
