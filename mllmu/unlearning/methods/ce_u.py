"""Cross-entropy unlearning."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from mllmu.training.losses_bounded import ce_u_loss
from mllmu.unlearning.base import RetainingMethod, Step


class CrossEntropyUnlearning(RetainingMethod):
    """Say what the model would say if the true token did not exist; no reference and no ascent.

    L = mean over forget tokens of -sum over words of q * log p + retain_weight * nll(retain),
    q = softmax(own logits with the true token at -inf), held constant

    Cost of a step: 1 forward and backward pass on forget; with ``retain_weight`` 1 on retain.
    Made for: text. The paper trains on forget alone.
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2503.01224"

    epochs: float = Field(5, gt=0, description="passes over the forget set")
    learning_rate: float = Field(1e-5, gt=0)
    skip: int = Field(1, ge=0, description="tokens at the beginning of a reply that are left alone")
    retain_weight: float = Field(0.0, ge=0, description="weight of the nll of the retain replies; 0 leaves them out")

    def loss(self, step: Step) -> dict[str, Tensor]:
        forget = {"forget_ce_u": ce_u_loss(step.forget.current, skip=self.skip)} if step.on_forget else {}
        return forget | self.retain_terms(step)


PLUGIN = CrossEntropyUnlearning
