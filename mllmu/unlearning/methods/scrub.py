"""Scalable remembering and unlearning unbound."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from mllmu.training.losses import kl_to_reference
from mllmu.unlearning.base import Method, RetainingMethod, Step


class Scrub(RetainingMethod):
    """Disagree with the reference, a teacher, on forget, and agree with it on retain.

    L = -forget_weight * KL(reference || current) on forget
        + kl_weight * KL(reference || current) on retain + retain_weight * nll(retain), each a mean over tokens

    Unbounded below. At the start both KL are 0 and flat, so only the nll moves the first step.
    The paper alternates epochs that raise the first term with epochs that lower the others; here both are in every
    step, and ``schedule: two_phase`` gives one phase of each.

    Cost of a step: 1 forward and backward pass and 1 extra forward (reference) on forget and on retain.
    Made for: image classifiers.
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2302.09880"
    uses_reference: ClassVar[bool] = True
    tuned: ClassVar[tuple[str, ...]] = (*Method.tuned, "kl_weight", "retain_weight")

    epochs: float = Field(5, gt=0, description="passes over the forget set")
    forget_weight: float = Field(1.0, gt=0)
    kl_weight: float = Field(1.0, gt=0, description="weight of KL(reference || current) on retain")

    @property
    def uses_retain(self) -> bool:
        return True

    def loss(self, step: Step) -> dict[str, Tensor]:
        terms = {}
        if step.on_forget:
            forget = step.forget
            kl = kl_to_reference(forget.current.logits_NV, forget.reference.logits_NV)
            terms["forget_disagreement"] = -self.forget_weight * kl
        if step.on_retain:
            retain = step.retain
            kl = kl_to_reference(retain.current.logits_NV, retain.reference.logits_NV)
            terms["retain_kl"] = self.kl_weight * kl
        return terms | self.retain_terms(step)


PLUGIN = Scrub
