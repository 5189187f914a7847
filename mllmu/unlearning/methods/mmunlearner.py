"""Unlearning images, not names: ascent on the weights that matter for the forget images."""

from typing import Literal

from pydantic import Field
from torch import Tensor

from mllmu.training.losses import answer_nll
from mllmu.unlearning.base import Method, RetainingMethod, Step, Terms
from mllmu.unlearning.probing import Saliency


class MMUnlearner(RetainingMethod):
    """Forget who is in the image while all facts stay known from text, those about the forgotten people too.

    mask = 1 where F_forget / F_retain >= threshold, F the diagonal Fisher information at the start (mean over replies
    of the squared gradient of a reply's nll per token); the others never change.
    L = -forget_weight * nll(forget, images) + retain_weight * nll(retain)

    The retain side holds the image questions about the retained people and the text questions about *all* people, so
    the target should have been fine-tuned on both (``finetune.modality: both``); otherwise it first learns them here.
    Forgetting is meant for images only, so the text scores on forget are not expected to fall.

    The paper masks vision and language modules; here only the language model is trained. With adapters A, B only B
    has a gradient at the start, so A stays as it was drawn.

    Cost: before training 1 forward and backward pass over forget and over retain, reply by reply; a step: 1 forward and
    backward pass on forget and 1 on retain. Memory: one boolean mask, and while it is made two more copies of the
    trained weights.
    Made for: image_text.
    """

    source = "https://arxiv.org/abs/2502.11051"
    preserves_text = True
    tuned = (*Method.tuned, "threshold", "retain_weight")

    modality: Literal["image_text"] = Field("image_text", description="only the images are unlearned")
    learning_rate: float = Field(1e-5, gt=0, le=100)
    threshold: float = Field(
        1.0, gt=0, le=10**6, description="how much more a weight must matter for forget than for retain"
    )
    forget_weight: float = Field(1.0, gt=0, le=10**6, description="weight of the term on forget")
    retain_weight: float = Field(1.0, gt=0, le=10**6, description="weight of the term on retain")

    def masks(self, saliency: Saliency) -> list[Tensor]:
        pairs = zip(saliency.fisher("forget"), saliency.fisher("retain"), strict=True)
        return [(forget > 0) & (forget >= self.threshold * retain) for forget, retain in pairs]

    def forget_terms(self, step: Step) -> Terms:
        return {"forget_ascent": -self.forget_weight * answer_nll(step.forget.current)}
