"""Unlearning by self-distillation on adjusted logits."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from mllmu.training.losses_bounded import undial_loss
from mllmu.unlearning.base import Method, RetainingMethod, Step


class AdjustedDistillation(RetainingMethod):
    """Learn from the reference itself, with the logit of every forget token lowered.

    L = mean over forget tokens of -sum over words of q * log p + retain_weight * nll(retain),
    q = softmax(reference logits - strength * onehot(token))

    The goal is a fixed distribution, so training settles instead of running away.

    Cost of a step: 1 forward and backward pass and 1 extra forward (reference) on forget; with ``retain_weight`` 1
    forward and backward pass on retain.
    Made for: text. Published code also averages over prompt and padding tokens, and lowers a wrong word there; not
    reproduced.
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2402.10052"
    uses_reference: ClassVar[bool] = True
    tuned: ClassVar[tuple[str, ...]] = (*Method.tuned, "strength", "retain_weight")

    epochs: float = Field(10, gt=0, description="passes over the forget set")
    learning_rate: float = Field(1e-4, gt=0)
    strength: float = Field(10.0, gt=0, description="what the logit of the trained token is lowered by")
    retain_weight: float = Field(0.0, ge=0, description="weight of the nll of the retain replies; 0 leaves them out")

    def loss(self, step: Step) -> dict[str, Tensor]:
        forget = {}
        if step.on_forget:
            current, reference = step.forget.current, step.forget.reference
            forget["forget_undial"] = undial_loss(current, reference.logits_NV, strength=self.strength)
        return forget | self.retain_terms(step)


PLUGIN = AdjustedDistillation
