"""Scalable remembering and unlearning unbound."""

from pydantic import Field

from mllmu.training.losses import kl_to_reference
from mllmu.unlearning.base import AnchoredMethod, Method, Step, Terms


class Scrub(AnchoredMethod):
    """Disagree with the reference, a teacher, on forget, and agree with it on retain.

    L = -forget_weight * KL(reference || current) on forget
        + kl_weight * KL(reference || current) on retain + retain_weight * nll(retain), each a mean over tokens

    Unbounded below. At the start both KL are 0 and flat, so only the nll moves the first step.
    The paper alternates epochs that raise the first term with epochs that lower the others; here both are in every
    step, and ``schedule: two_phase`` alternates as the paper does.

    Cost of a step: 1 forward and backward pass and 1 extra forward (reference) on forget and on retain.
    Made for: image classifiers.
    """

    source = "https://arxiv.org/abs/2302.09880"
    tuned = (*Method.tuned, "kl_weight", "retain_weight")

    epochs: float = Field(5, gt=0, le=10_000, description="passes over the forget set")
    kl_weight: float = Field(1.0, gt=0, le=10**6, description="weight of KL(reference || current) on retain")
    forget_weight: float = Field(1.0, gt=0, le=10**6, description="weight of the term on forget")

    def forget_terms(self, step: Step) -> Terms:
        forget = step.forget
        kl = kl_to_reference(forget.current.logits_NV, forget.reference.logits_NV)
        return {"forget_disagreement": -self.forget_weight * kl}
